"""Judging the libraries of a GPU worker: torch, exllamav2, flash-attn. What rests on something that is missing is not
judged, so that a fault is told once."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.doctor.facts import Capability, ExLlamaV2, Gpu, Libraries, Machine, Package, Toolchain, Torch
from cluster.doctor.findings import Finding, Level, missing, ok, warning
from cluster.doctor.judge_system import version_numbers

TORCH_INDEX = "https://download.pytorch.org/whl"
EXLLAMAV2_WHEELS = "https://github.com/turboderp-org/exllamav2/releases"
FLASH_ATTN_WHEELS = "https://github.com/Dao-AILab/flash-attention/releases"
EXLLAMAV2_FROM, EXLLAMAV2_BELOW = (0, 3, 2), (0, 4)
EXLLAMAV2_REQUIREMENT = "exllamav2>=0.3.2,<0.4"
OLDEST_PAGED = (2, 5, 7)
"""The first flash-attn with paged attention, which exllamav2's dynamic generator asserts."""
FLASH_ATTN_CAPABILITY: Capability = (8, 0)
OLDEST_OF_NEW_BUILDS: Capability = (7, 5)
"""Builds of torch for CUDA 12.8 and later have no kernels for older GPUs."""


def torch_build(cuda: tuple[int, int] | None, gpus: Iterable[Gpu]) -> str | None:
    """Which build of torch runs with a driver on its GPUs ("cu128"); None: the driver is too old for any. Drivers run
    programs of every minor version of CUDA that has their major version."""
    if cuda is None:
        return "cu128"
    if cuda < (12, 0):
        return None
    oldest = min((gpu.capability for gpu in gpus), default=OLDEST_OF_NEW_BUILDS)
    return "cu128" if cuda >= (12, 8) and oldest >= OLDEST_OF_NEW_BUILDS else "cu126"


def judge_libraries(machine: Machine, *, gpus_usable: bool = True) -> tuple[Finding, ...]:
    """`gpus_usable` False: the driver is missing, which was told, so that none can work."""
    libraries = machine.libraries
    torch = _torch(machine, gpus_usable)
    findings = [torch]
    torch_works = torch.level is not Level.MISSING and gpus_usable
    findings += _exllamav2(libraries, torch_works)
    findings += _flash_attn(machine, libraries, torch_works)
    if libraries.ended is not None and torch_works:
        module = str(libraries.ended_at)
        cure = f"Run `python -c 'import {module}'` there and see what it says; install it again for this torch."
        findings.append(missing(module, f"a process that tried it {libraries.ended}", cure))
    return tuple(findings)


def judge_torch_for_cpus(libraries: Libraries) -> tuple[Finding, ...]:
    """For the CPU engine and for whatever else imports it."""
    torch = libraries.torch
    if torch is None:
        return (missing("torch", f"a process that tried it {libraries.ended}", "Install it again: pip install torch."),)
    if torch.package.version is None:
        return (missing("torch", "not installed", f"pip install torch --index-url {TORCH_INDEX}/cpu"),)
    if torch.package.error is not None:
        return (missing("torch", torch.package.error, "Install it again: pip install --force-reinstall torch."),)
    return (ok("torch", torch.package.version),)


def _torch(machine: Machine, gpus_usable: bool) -> Finding:
    torch, nvidia = machine.libraries.torch, machine.nvidia
    gpus = machine.visible_gpus
    build = torch_build(nvidia.cuda, gpus)
    install = f"pip install --force-reinstall torch --index-url {TORCH_INDEX}/{build}"
    if build is None:
        install = "Install NVIDIA driver 525 or newer first (CUDA 12), then run this again."
    if torch is None or torch.package.version is None:
        return missing(
            "torch", "not installed" if torch else f"a process that tried it {machine.libraries.ended}", install
        )
    version = torch.package.version
    if torch.package.error is not None:
        return missing("torch", f"{version} cannot be imported: {torch.package.error}", install)
    if torch.cuda is None:
        return missing("torch", f"{version} is a build for CPUs, which uses no GPU", install)
    told = f"{version}, built for CUDA {torch.cuda}"
    if not gpus_usable:
        return ok("torch", told)
    if nvidia.cuda is not None and version_numbers(torch.cuda)[0] > nvidia.cuda[0]:
        return missing(
            "torch",
            f"{told}, and driver {nvidia.driver} goes up to CUDA {nvidia.cuda[0]}.{nvidia.cuda[1]}",
            f"Update NVIDIA's driver, or {install}" if build else install,
        )
    without = [gpu for gpu in gpus if torch.architectures and not has_kernels(torch.architectures, gpu.capability)]
    if without:
        major, minor = without[0].capability
        told = f"{told}, without kernels for {without[0].name} (compute capability {major}.{minor})"
        return missing("torch", told, install)
    return _torch_on_gpus(torch, told, len(gpus), install)


def _torch_on_gpus(torch: Torch, told: str, gpus: int, install: str) -> Finding:
    if torch.gpus_error is not None:
        return missing("torch", f"{told}, cannot compute on a GPU: {torch.gpus_error}", install)
    if torch.gpus_seen == 0:
        return missing(
            "torch", f"{told}, sees no GPU", "Update NVIDIA's driver, and in a container start it with `--gpus all`."
        )
    if torch.gpus_seen < gpus:
        return warning("torch", f"{told}, sees {torch.gpus_seen} of {gpus} GPUs", "See `nvidia-smi` for the others.")
    return ok("torch", f"{told}, computes on {torch.gpus_seen} GPU{'s' if torch.gpus_seen > 1 else ''}")


def has_kernels(architectures: tuple[str, ...], capability: Capability) -> bool:
    """Whether a build runs on a GPU: its kernels on those of the same major version that are as new, its intermediate
    code ("compute_90") on all that are as new."""
    for name in architectures:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")  # sm_90a, sm_100f
        if not digits.isdecimal():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        same = built[0] == capability[0] or kind == "compute"
        if same and built <= capability:
            return True
    return False


def _exllamav2(libraries: Libraries, torch_works: bool) -> list[Finding]:
    found = libraries.exllamav2
    if found is None:
        return []
    install = (
        f"pip install '{EXLLAMAV2_REQUIREMENT}', or a wheel for this Python, torch and CUDA from {EXLLAMAV2_WHEELS}."
    )
    if found.version is None:
        return [missing("exllamav2", "not installed", install)]
    if found.version != "unknown" and not EXLLAMAV2_FROM <= version_numbers(found.version) < EXLLAMAV2_BELOW:
        return [missing("exllamav2", f"{found.version}, and exlpool needs {EXLLAMAV2_REQUIREMENT}", install)]
    if found.extension_error is not None and torch_works:
        return [
            missing(
                "exllamav2", f"{found.version}, its extension fails: {found.extension_error}", _other_wheel(libraries)
            )
        ]
    if not found.prebuilt and torch_works:
        return [_to_build(found, found.toolchain or Toolchain(), libraries)]
    return [ok("exllamav2", f"{found.version}{', its extension computes' if torch_works else ''}")]


def _other_wheel(libraries: Libraries) -> str:
    torch = libraries.torch.package.version if libraries.torch else ""
    return (
        f"It was built for another torch, Python or GPU: take the wheel for torch {torch} from {EXLLAMAV2_WHEELS}, or "
        f"pip uninstall exllamav2 and pip install '{EXLLAMAV2_REQUIREMENT}' from PyPI, which builds it here."
    )


def _to_build(found: ExLlamaV2, tools: Toolchain, libraries: Libraries) -> Finding:
    """Without its extension the library builds it when it is first imported, and looks for the tools each time."""
    cuda = libraries.torch.cuda if libraries.torch and libraries.torch.cuda else "12"
    lacking = {
        f"nvcc (CUDA toolkit {cuda}, CUDA_HOME)": tools.nvcc is not None,
        "ninja (pip install ninja)": tools.ninja,
        "a C++ compiler (apt install g++)": tools.compiler is not None,
        "Python's headers (apt install python3-dev)": tools.python_headers,
    }
    absent = [name for name, there in lacking.items() if not there]
    if absent:
        return missing(
            "exllamav2",
            f"{found.version} without its compiled extension, and this machine cannot build it",
            f"Take a wheel with it from {EXLLAMAV2_WHEELS}, or install {', '.join(absent)}.",
        )
    if tools.nvcc is not None and version_numbers(tools.nvcc)[0] != version_numbers(cuda)[0]:
        return missing(
            "exllamav2",
            f"{found.version} without its compiled extension, and nvcc {tools.nvcc} does not fit torch's CUDA {cuda}",
            f"Install the CUDA toolkit {cuda} and set CUDA_HOME to it, or take a wheel from {EXLLAMAV2_WHEELS}.",
        )
    if tools.built:
        return ok("exllamav2", f"{found.version}, its extension was built on this machine")
    return warning(
        "exllamav2",
        f"{found.version} without its compiled extension: the first load builds it, which takes minutes on all cores",
        "Build it before a pool starts: python -c 'import exllamav2'",
    )


def _flash_attn(machine: Machine, libraries: Libraries, torch_works: bool) -> list[Finding]:
    package = libraries.flash_attn
    if package is None:
        return []
    oldest = ".".join(map(str, OLDEST_PAGED))
    without = "without it a worker runs ONE job at a time"
    gpus = machine.visible_gpus
    if gpus and all(gpu.capability < FLASH_ATTN_CAPABILITY for gpu in gpus):
        told = f"there is none for {gpus[0].name}, and {without}"
        return [warning("flash-attn", told, "Use a GPU of compute capability 8.0 (Ampere) or newer to batch jobs.")]
    install = (
        f"pip install flash-attn --no-build-isolation (needs nvcc, and long), or a wheel from {FLASH_ATTN_WHEELS}."
    )
    if package.version is None:
        return [missing("flash-attn", f"not installed, and {without}", install)]
    if package.version != "unknown" and version_numbers(package.version) < OLDEST_PAGED:
        told = f"{package.version} has no paged attention ({oldest} or newer has), and {without}"
        return [missing("flash-attn", told, f"pip install -U flash-attn, or a wheel from {FLASH_ATTN_WHEELS}.")]
    return [_flash_attn_works(package, libraries.exllamav2, torch_works, without, install)]


def _flash_attn_works(
    package: Package, exllamav2: ExLlamaV2 | None, torch_works: bool, without: str, install: str
) -> Finding:
    if package.error is not None and torch_works:
        told = f"{package.version} cannot be imported ({package.error}), and {without}"
        return missing("flash-attn", told, f"It was built for another torch or Python: {install}")
    if exllamav2 is not None and exllamav2.paged is False and torch_works:
        told = f"{package.version} is there and exllamav2 does not use it, and {without}"
        return missing("flash-attn", told, "Unset EXLLAMA_NO_FLASH_ATTN.")
    return ok("flash-attn", str(package.version))
