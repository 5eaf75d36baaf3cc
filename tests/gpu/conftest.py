"""Tests that need an NVIDIA GPU: `pytest -m gpu`. Elsewhere they are skipped, and say why.

The model is the built-in one: as it is, and converted to EXL2 by exllamav2's own converter, once per session.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.base import Engine
from actors.engines.registry import create_engine, gpu_visible
from tests.benchmarks.make_model import Shape, make_model

BIT_RATES = ("4.0", "6.0")
CONVERSION_TIMEOUT_S = 400
_CACHE_TOKENS = 64 * 1024


def _missing() -> str | None:
    """What keeps these tests from running here."""
    if not gpu_visible():
        return "no NVIDIA GPU is visible"
    for name in ("exllamav2", "exllamav2_ext", "flash_attn"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _missing()
    if reason is None:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built-in model in EXL2, by bits per weight. Takes about a minute."""
    work = tmp_path_factory.mktemp("exl2")
    measurement = work / "measurement.json"
    _finish(_convert(work / "measure", "-om", str(measurement)))
    models = {rate: work / f"exl2-{rate}" for rate in BIT_RATES}
    running = [
        _convert(work / f"work-{rate}", "-m", str(measurement), "-cf", str(path), "-b", rate)
        for rate, path in models.items()
    ]
    for process in running:
        _finish(process)
    return models


@pytest.fixture(scope="session")
def random_exl2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small EXL2 model of random bits."""
    directory = tmp_path_factory.mktemp("random-exl2")
    make_model(
        directory,
        Shape(
            hidden_size=512,
            intermediate_size=1024,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=128,
            vocab_size=2048,
            context_tokens=4096,
        ),
    )
    return directory


def _convert(work: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "exllamav2.conversion.convert_exl2", "-nr", "-ml", "512", "-l", "512"]
    work.mkdir()
    return subprocess.Popen(
        [*command, "-i", str(builtin_model_path()), "-o", str(work), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=CONVERSION_TIMEOUT_S)
    assert process.returncode == 0, output[-3000:]


LoadEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def loaded_engines() -> Iterator[dict[str, Engine]]:
    engines: dict[str, Engine] = {}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture
def load_engine(loaded_engines: dict[str, Engine]) -> LoadEngine:
    """An engine of these settings without jobs and with an empty cache, loaded once per session."""

    def load(**settings: Any) -> Engine:
        config = EngineConfig(**{"engine": "exllamav2", "cache_tokens": _CACHE_TOKENS, "max_batch_size": 64} | settings)
        key = repr(config)
        if key in loaded_engines:
            loaded_engines[key].reset()
        else:
            engine = create_engine(config)
            engine.load(lambda _: None)
            loaded_engines[key] = engine
        return loaded_engines[key]

    return load
