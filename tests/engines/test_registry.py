"""Weights and hardware choose the engine; a choice that cannot work is refused with what to do instead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from actors.config import EngineConfig, pool_config
from actors.engines import registry
from actors.engines.cpu import CpuEngine
from actors.engines.registry import create_engine, gpu_visible, resolve_engine_name
from actors.engines.simulated import SimulatedEngine
from actors.errors import ModelError
from tests.engines.model_files import HALF, WORDS, write_model


@pytest.fixture
def exl2(tmp_path: Path) -> Path:
    return write_model(tmp_path / "exl2", x__q_weight=WORDS, y__weight=HALF)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_model(tmp_path / "plain")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "exllamav2_installed", lambda: True)


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "exllamav2_installed", lambda: False)


def test_without_a_gpu_unquantised_weights_go_to_the_cpu_engine(plain: Path) -> None:
    assert resolve_engine_name(pool_config(), has_gpu=False) == "cpu"
    assert resolve_engine_name(pool_config(model=plain), has_gpu=False) == "cpu"
    assert resolve_engine_name(pool_config(model=plain, gpus_per_worker=0)) == "cpu"


@pytest.mark.usefixtures("installed")
def test_with_a_gpu_everything_goes_to_exllamav2(plain: Path, exl2: Path) -> None:
    for model in (None, plain, exl2):
        assert resolve_engine_name(pool_config(model=model), has_gpu=True) == "exllamav2"
    assert resolve_engine_name(pool_config(model=plain, engine="cpu"), has_gpu=True) == "cpu"


@pytest.mark.usefixtures("not_installed")
def test_with_a_gpu_but_without_exllamav2_only_the_built_in_model_falls_back(plain: Path, exl2: Path) -> None:
    assert resolve_engine_name(pool_config(), has_gpu=True) == "cpu"
    with pytest.raises(ModelError, match=r"pip install exlpool\[exllamav2\], or `engine: cpu`"):
        resolve_engine_name(pool_config(model=plain), has_gpu=True)
    with pytest.raises(ModelError, match=r"pip install exlpool\[exllamav2\]; `exlpool doctor` says"):
        resolve_engine_name(pool_config(model=exl2), has_gpu=True)


@pytest.mark.parametrize(
    "fault", ["ImportError('x.so: undefined symbol: y')", "OSError('CUDA_HOME is not set')", "RuntimeError('no Ninja')"]
)
def test_a_library_that_cannot_be_imported_is_a_matter_for_the_doctor(
    exl2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Its import loads or builds the compiled extension."""
    for name in [name for name in sys.modules if name.startswith(("exllamav2", "actors.engines.exllamav2"))]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "site" / "exllamav2").mkdir(parents=True)
    (tmp_path / "site" / "exllamav2" / "__init__.py").write_text(f"raise {fault}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(registry, "gpu_visible", lambda: True)
    with pytest.raises(ModelError, match=r"cannot be imported \(.*\): `exlpool doctor` says what is missing"):
        create_engine(EngineConfig(model=exl2))


def test_quantised_weights_need_a_gpu(exl2: Path) -> None:
    for engine in ("auto", "exllamav2"):
        with pytest.raises(ModelError, match="needs an NVIDIA GPU"):
            resolve_engine_name(pool_config(model=exl2, engine=engine), has_gpu=False)
    with pytest.raises(ModelError, match="CPU engine cannot read"):
        resolve_engine_name(pool_config(model=exl2, engine="cpu"), has_gpu=True)


def test_exl3_has_no_engine_yet(tmp_path: Path) -> None:
    model = write_model(tmp_path / "exl3", x__trellis=WORDS, y__weight=HALF)
    with pytest.raises(ModelError, match="EXL3"):
        resolve_engine_name(pool_config(model=model), has_gpu=True)


def test_simulation_is_never_chosen_by_itself_and_needs_no_model(tmp_path: Path) -> None:
    assert resolve_engine_name(pool_config(engine="simulated", model=tmp_path / "none")) == "simulated"
    assert "simulated" not in {resolve_engine_name(pool_config(), has_gpu=False)}


@pytest.mark.parametrize("hidden", ["", "-1", " ", "NoDevFiles"])
def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setattr(registry, "_nvml_device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_visible()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpu_visible()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not gpu_visible()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_driver_has_no_gpu() -> None:
    assert not gpu_visible()


def test_engines_are_made_unloaded() -> None:
    assert isinstance(create_engine(EngineConfig(engine="simulated")), SimulatedEngine)
    engine = create_engine(EngineConfig(engine="cpu"))
    assert isinstance(engine, CpuEngine)
    assert not engine.has_work()
