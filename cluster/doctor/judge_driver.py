"""Judging GPUs and their driver."""

from __future__ import annotations

from cluster.doctor.facts import Gpu, GpuProcess, Machine
from cluster.doctor.findings import Finding, missing, ok, warning

GB = 1024**3
NEEDED = "an NVIDIA GPU with its driver, torch built for CUDA, exllamav2 and flash-attn"


def no_gpu(*, wanted: bool) -> Finding:
    if wanted:
        return missing("GPU", "none on this machine", f"A GPU worker needs {NEEDED}: run this on a machine with a GPU.")
    return ok("GPU", f"none: fine for the CPU engine and for a head; a GPU worker needs {NEEDED}")


def unused_gpu(machine: Machine) -> Finding:
    """Of a machine that is to host no GPU worker, for whatever reason."""
    nvidia = machine.nvidia
    if nvidia.driver is None and nvidia.kernel_driver is not None:
        return warning(
            "GPU", "the host's is not given to this container", "Where it is to be used: `docker run --gpus all`."
        )
    hidden = ", hidden by CUDA_VISIBLE_DEVICES" if nvidia.gpus and not machine.visible_gpus else ""
    return ok("GPU", f"{nvidia.hardware}{hidden}, not to be used: fine for the CPU engine and for a head")


def judge_driver(machine: Machine) -> tuple[Finding, ...]:
    """A finding of the driver, and one of each GPU. The first one is missing where no GPU can be used."""
    nvidia = machine.nvidia
    if nvidia.error is not None:
        return (missing("driver", f"its library says: {nvidia.error}", _cure_of_error(nvidia.error)),)
    if nvidia.driver is None:
        return (_no_driver(machine),)
    if not nvidia.gpus:
        return (
            missing("GPU", f"driver {nvidia.driver} knows none", "Give the container a GPU (`docker run --gpus all`)."),
        )
    visible = machine.visible_gpus
    if not visible:
        told = f"CUDA_VISIBLE_DEVICES={machine.visible_devices!r} hides all {len(nvidia.gpus)}"
        return (missing("GPU", told, "Unset CUDA_VISIBLE_DEVICES, or name a GPU that is there (0, 1, ...)."),)
    cuda = "" if nvidia.cuda is None else f", for CUDA up to {nvidia.cuda[0]}.{nvidia.cuda[1]}"
    return (ok("driver", f"{nvidia.driver}{cuda}"), *map(_gpu, visible))


def judge_ray_gpus(machine: Machine, gpus_of_ray: float) -> tuple[Finding, ...]:
    """On a node: whether Ray knows of its GPUs."""
    visible = len(machine.visible_gpus)
    if gpus_of_ray >= visible:
        return ()
    return (
        warning(
            "GPUs of Ray",
            f"Ray counts {gpus_of_ray:g} on this node, and there are {visible}",
            f"Start the node with `ray start --num-gpus {visible}`, where all of them are to be used.",
        ),
    )


def _no_driver(machine: Machine) -> Finding:
    nvidia = machine.nvidia
    if nvidia.kernel_driver is not None:
        return missing(
            "driver",
            f"the system has loaded {nvidia.kernel_driver}, but its libraries are not here",
            "Start the container with `--gpus all` and NVIDIA_DRIVER_CAPABILITIES=compute,utility "
            "(nvidia-container-toolkit), or install the driver's libraries of the same version.",
        )
    return missing(
        "driver",
        f"none, beside {nvidia.hardware} NVIDIA GPU{'s' if nvidia.hardware > 1 else ''}",
        "Install NVIDIA's driver (on Ubuntu: `sudo ubuntu-drivers install --gpgpu`) and restart the machine.",
    )


def _cure_of_error(error: str) -> str:
    if "mismatch" in error.lower():
        return "The driver was updated while it was loaded: restart the machine."
    return "Load the driver (`sudo modprobe nvidia`; `dmesg` says why it fails), or install it again."


def _gpu(gpu: Gpu) -> Finding:
    major, minor = gpu.capability
    memory = f"{gpu.free_bytes / GB:.1f} of {gpu.total_bytes / GB:.1f} GB free"
    users = ", ".join(map(_user, gpu.processes))
    used = f", used by {users}" if users else ""
    return ok(f"GPU {gpu.index}", f"{gpu.name}, {memory}, compute capability {major}.{minor}{used}")


def _user(process: GpuProcess) -> str:
    memory = "" if process.used_bytes is None else f", {process.used_bytes / GB:.1f} GB"
    return f"{process.name} (pid {process.pid}{memory})"
