"""What a machine is, as far as it matters to a worker. No judgement here: None always means that nobody could say.

Facts travel from a node as JSON, since the node may have no exlpool whose classes it could use.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Capability = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Question:
    """What a node is asked. `script` is the program that a fresh process runs, `variables` are those of the environment
    that are to be told, `try_gpu` has GPU libraries tried even where no GPU is seen."""

    script: str
    models: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    try_gpu: bool = False
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class GpuProcess:
    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver tells it, whoever may use it."""

    index: int
    name: str
    uuid: str
    total_bytes: int
    free_bytes: int
    capability: Capability
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Nvidia:
    """The driver and its GPUs. `hardware` counts NVIDIA GPUs on the bus, `kernel_driver` is the version that the kernel
    has loaded, `error` what its library (NVML) said where it is there and refuses."""

    driver: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    hardware: int = 0
    kernel_driver: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package, and why it cannot be imported; version None: it is not installed."""

    version: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Torch:
    """`cuda` is the version of CUDA that it was built for; None: a build for CPUs. `gpus_error` is what went wrong when
    each GPU multiplied two matrices; None: nothing, or it was not tried."""

    package: Package = field(default_factory=Package)
    cuda: str | None = None
    architectures: tuple[str, ...] = ()
    gpus_seen: int = 0
    gpus_error: str | None = None


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What building the extension of ExLlamaV2 needs; None or False: it is not there. `built` says that it was built
    here before."""

    cuda_home: str | None = None
    nvcc: str | None = None
    ninja: bool = False
    compiler: str | None = None
    python_headers: bool = False
    built: bool = False


@dataclass(frozen=True, slots=True)
class ExLlamaV2:
    """`prebuilt` says that the compiled extension is installed (else it is built at the first load), `extension_error`
    why it cannot be used, `paged` whether the library itself would use paged attention (None: it was not asked)."""

    version: str | None = None
    prebuilt: bool = False
    extension_error: str | None = None
    paged: bool | None = None
    toolchain: Toolchain | None = None


@dataclass(frozen=True, slots=True)
class Libraries:
    """What a fresh process found. `ended` says how it ended before it was through, and `ended_at` with what."""

    torch: Torch | None = None
    flash_attn: Package | None = None
    exllamav2: ExLlamaV2 | None = None
    ended: str | None = None
    ended_at: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model directory; with an `error` it is unusable, and the rest says nothing."""

    path: str
    error: str | None = None
    kind: str = ""
    architecture: str = ""
    weight_bytes: int = 0
    config: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class System:
    memory_bytes: int
    shm_bytes: int | None
    open_files: int
    loopback_error: str | None
    temp_dir_error: str | None
    variables: dict[str, str]
    clock_s: float


@dataclass(frozen=True, slots=True)
class Machine:
    """All that was found on one machine. Versions are None where the package is not there."""

    host: str
    python: str
    ray: str | None
    exlpool: str | None
    visible_devices: str | None
    nvidia: Nvidia
    libraries: Libraries
    models: tuple[Model, ...]
    system: System

    @property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that a process here may use, by CUDA_VISIBLE_DEVICES, which CUDA reads up to its first unknown
        entry."""
        if self.visible_devices is None:
            return self.nvidia.gpus
        found: list[Gpu] = []
        for entry in self.visible_devices.split(","):
            gpu = self._gpu_named(entry.strip())
            if gpu is None:
                break
            found.append(gpu)
        return tuple(found)

    def _gpu_named(self, name: str) -> Gpu | None:
        for gpu in self.nvidia.gpus:
            if name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name)):
                return gpu
        return None
