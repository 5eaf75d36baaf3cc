"""The driver and its GPUs, from NVML: needs neither torch nor a CUDA context."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from cluster.doctor.facts import Gpu, GpuProcess, Nvidia

NVML_LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
TEXT_BYTES = 96
MAX_PROCESSES = 64
NO_MEMORY_TOLD = 2**64 - 1
"""In place of a process's memory where the driver does not know it, as in containers."""
VENDOR, DISPLAY_CLASS = "0x10de", "0x03"
KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
BUS = Path("/sys/bus/pci/devices")


def read_nvidia() -> Nvidia:
    """What there is of NVIDIA here; nothing where there is nothing."""
    hardware, kernel_driver = _count_on_bus(), _kernel_driver()
    nvml = _library()
    if nvml is None:
        return Nvidia(hardware=hardware, kernel_driver=kernel_driver)
    status = nvml.nvmlInit_v2()
    if status != 0:
        return Nvidia(hardware=hardware, kernel_driver=kernel_driver, error=_told(nvml, status))
    try:
        count = ctypes.c_uint(0)
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        gpus = tuple(_gpu(nvml, index) for index in range(count.value))
        driver = ctypes.create_string_buffer(TEXT_BYTES)
        nvml.nvmlSystemGetDriverVersion(driver, TEXT_BYTES)
        cuda = ctypes.c_int(0)
        nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda))
        version = (cuda.value // 1000, cuda.value % 1000 // 10)
        return Nvidia(_text(driver), version, gpus, max(hardware, len(gpus)), kernel_driver)
    finally:
        nvml.nvmlShutdown()


def _library() -> Any:
    for name in NVML_LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _told(nvml: Any, status: int) -> str:
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    text = nvml.nvmlErrorString(status)
    return text.decode(errors="replace") if text else f"error {status}"


def _text(buffer: Any) -> str:
    value: bytes = buffer.value
    return value.decode(errors="replace")


def _gpu(nvml: Any, index: int) -> Gpu:
    device = ctypes.c_void_p()
    nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))
    name, uuid = ctypes.create_string_buffer(TEXT_BYTES), ctypes.create_string_buffer(TEXT_BYTES)
    nvml.nvmlDeviceGetName(device, name, TEXT_BYTES)
    nvml.nvmlDeviceGetUUID(device, uuid, TEXT_BYTES)
    memory = (ctypes.c_ulonglong * 3)()  # nvmlMemory_t: total, free, used
    nvml.nvmlDeviceGetMemoryInfo(device, memory)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    nvml.nvmlDeviceGetCudaComputeCapability(device, ctypes.byref(major), ctypes.byref(minor))
    processes = _processes(nvml, device)
    return Gpu(index, _text(name), _text(uuid), memory[0], memory[1], (major.value, minor.value), processes)


def _processes(nvml: Any, device: Any) -> tuple[GpuProcess, ...]:
    """Who computes on a GPU, as far as this system lets see: from a container, often nobody."""
    ask = getattr(nvml, "nvmlDeviceGetComputeRunningProcesses_v3", None)
    if ask is None:  # drivers before 510
        return ()
    count = ctypes.c_uint(MAX_PROCESSES)
    entries = (ctypes.c_ulonglong * (3 * MAX_PROCESSES))()  # each: pid (4 bytes of 8), memory, two instance ids
    if ask(device, ctypes.byref(count), entries) != 0:
        return ()
    found = [(entries[3 * number] & 0xFFFFFFFF, entries[3 * number + 1]) for number in range(count.value)]
    return tuple(GpuProcess(pid, _process_name(pid), None if used == NO_MEMORY_TOLD else used) for pid, used in found)


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "another system's process"


def _count_on_bus() -> int:
    """NVIDIA GPUs that are plugged in, whether or not there is a driver."""
    return sum(
        _line(device / "vendor") == VENDOR and _line(device / "class").startswith(DISPLAY_CLASS)
        for device in _devices()
    )


def _devices() -> list[Path]:
    try:
        return list(BUS.iterdir())
    except OSError:
        return []


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _kernel_driver() -> str | None:
    found = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", _line(KERNEL_DRIVER))
    return found[1] if found else None
