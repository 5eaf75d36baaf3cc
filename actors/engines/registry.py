"""Which engine runs a configuration, and making it. Engines are imported only when they are made."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import cache

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig, PoolConfig
from actors.engines.base import Engine
from actors.engines.model_dir import ModelDirectory, WeightKind, inspect_model_dir
from actors.errors import ModelError, first_line

_NVML_LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")


def create_engine(config: EngineConfig) -> Engine:
    """Make the engine of a configuration, not yet loaded. To be called on the thread that is to own it.

    :raises ModelError: the model directory is unusable, or what its engine needs is missing here.
    """
    match resolve_engine_name(config):
        case "simulated":
            from actors.engines.simulated import SimulatedEngine

            return SimulatedEngine(config)
        case "cpu":
            from actors.engines.cpu import CpuEngine

            return CpuEngine(config)
        case _:
            return _make_exllamav2(config)


def _make_exllamav2(config: EngineConfig) -> Engine:
    """Importing the library loads its compiled extension, or builds it, and any of that can fail."""
    try:
        from actors.engines.exllamav2 import ExLlamaV2Engine
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"ExLlamaV2 is installed here and cannot be imported ({first_line(error)}): `exlpool doctor` says what is "
            "missing on this machine and how to get it."
        ) from error
    return ExLlamaV2Engine(config)


def resolve_engine_name(config: EngineConfig, *, has_gpu: bool | None = None) -> str:
    """The name of the engine that runs a configuration on this machine: "cpu", "exllamav2" or "simulated". Reads no
    weights and imports no engine. What workers elsewhere are to run is for `actors.engine_choice` to decide.

    An engine that the configuration names is taken at its word; otherwise see `choose_engine`. `has_gpu` is for a
    caller that knows better than this machine.
    :raises ModelError: the model directory is unusable, or what its engine needs is missing here.
    """
    if config.engine == "simulated":
        return "simulated"
    model = inspect_model_dir(config.model or builtin_model_path())
    gpu = _gpu_for(config) if has_gpu is None else has_gpu
    name: str = config.engine
    if name == "auto":
        name = choose_engine(model, builtin=config.model is None, gpus=gpu)
    else:
        require_readable(model)
    if name == "cpu":
        require_readable_by_cpu(model)
        return "cpu"
    return _exllamav2(model, gpu)


def choose_engine(model: ModelDirectory, *, builtin: bool, gpus: bool) -> str:
    """What `engine: auto` stands for. The weights decide: EXL2 and GPTQ go to ExLlamaV2, unquantised ones to ExLlamaV2
    where there are GPUs and to the CPU engine elsewhere. The built-in model, which is there to try things out, needs
    nothing that is not installed: it goes to ExLlamaV2 only where that can be imported by this process too.

    :raises ModelError: no engine here reads such weights.
    """
    require_readable(model)
    if model.kind is not WeightKind.UNQUANTISED:
        return "exllamav2"
    if not gpus or (builtin and not exllamav2_installed()):
        return "cpu"
    return "exllamav2"


def require_readable(model: ModelDirectory) -> None:
    """:raises ModelError: no engine here reads such weights."""
    if model.kind is WeightKind.EXL3:
        raise ModelError(f"{model.path} holds EXL3 weights, and their engine is not there yet: use an EXL2 version.")


def require_readable_by_cpu(model: ModelDirectory) -> None:
    """:raises ModelError: the CPU engine does not read such weights."""
    if model.kind is not WeightKind.UNQUANTISED:
        raise ModelError(
            f"{model.path} holds {model.kind.upper()} weights, which the CPU engine cannot read: "
            "use unquantised weights, or a GPU and `engine: exllamav2`."
        )


def _exllamav2(model: ModelDirectory, gpu: bool) -> str:
    if not gpu:
        raise ModelError(
            f"{model.path} ({model.kind}) is to run on ExLlamaV2, which needs an NVIDIA GPU, and none is visible here: "
            "run it on a machine with one, or use unquantised weights with `engine: cpu`."
        )
    if not exllamav2_installed():
        raise ModelError(
            f"{model.path} ({model.kind}) is to run on ExLlamaV2, which is not installed: "
            f"pip install exlpool[exllamav2]{_alternative(model)}; `exlpool doctor` says what else is missing here."
        )
    return "exllamav2"


def _alternative(model: ModelDirectory) -> str:
    return ", or `engine: cpu` to run it without a GPU" if model.kind is WeightKind.UNQUANTISED else ""


def exllamav2_installed() -> bool:
    return importlib.util.find_spec("exllamav2") is not None


def _gpu_for(config: EngineConfig) -> bool:
    if isinstance(config, PoolConfig) and config.gpus_per_worker == 0:
        return False
    return gpu_visible()


def gpu_visible() -> bool:
    """Whether this process may use an NVIDIA GPU. Needs neither torch nor a CUDA context."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1", "NoDevFiles"}:
        return False
    return _nvml_device_count() > 0


@cache
def _nvml_device_count() -> int:
    """GPUs that the driver knows, from NVML; 0 where there is no driver."""
    for name in _NVML_LIBRARIES:
        try:
            nvml = ctypes.CDLL(name)
        except OSError:
            continue
        if nvml.nvmlInit_v2() != 0:
            return 0
        count = ctypes.c_uint(0)
        status = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        nvml.nvmlShutdown()
        return count.value if status == 0 else 0
    return 0
