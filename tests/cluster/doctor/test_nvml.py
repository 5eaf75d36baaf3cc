"""The driver is read through its own library, here one that is made up."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.doctor import nvml
from cluster.doctor.facts import Gpu, GpuProcess, Nvidia

GB = 1024**3


class Library:
    """Answers as NVML does: a status, and results where the arguments point."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.nvmlErrorString: Any = lambda status: b"Driver/library version mismatch"
        self.down = False

    def nvmlInit_v2(self) -> int:
        return self.status

    def nvmlShutdown(self) -> int:
        self.down = True
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 1
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:
        text.value = b"570.86.10"
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> int:
        version._obj.value = 12080
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, device: Any) -> int:
        return 0

    def nvmlDeviceGetName(self, device: Any, text: Any, size: int) -> int:
        text.value = b"NVIDIA H100"
        return 0

    def nvmlDeviceGetUUID(self, device: Any, text: Any, size: int) -> int:
        text.value = b"GPU-1"
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:
        memory[0], memory[1], memory[2] = 80 * GB, 70 * GB, 10 * GB
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, device: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = 9, 0
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, device: Any, count: Any, entries: Any) -> int:
        count._obj.value = 2
        entries[0], entries[1] = os.getpid() | 0xABC << 32, GB  # the upper half of the word is padding
        entries[3], entries[4] = 2**31 - 1, nvml.NO_MEMORY_TOLD
        return 0


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Any], None]:
    """Puts a library in NVML's place, on a machine that has nothing else of NVIDIA's."""
    monkeypatch.setattr(nvml, "BUS", tmp_path / "bus")
    monkeypatch.setattr(nvml, "KERNEL_DRIVER", tmp_path / "version")

    def put_library(library: Any) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: library)

    return put_library


def test_a_driver_and_its_gpus_are_read(put: Callable[[Any], None]) -> None:
    library = Library()
    put(library)
    me = Path("/proc/self/comm").read_text().strip()
    processes = (GpuProcess(os.getpid(), me, GB), GpuProcess(2**31 - 1, "another system's process", None))
    gpu = Gpu(0, "NVIDIA H100", "GPU-1", 80 * GB, 70 * GB, (9, 0), processes)
    assert nvml.read_nvidia() == Nvidia("570.86.10", (12, 8), (gpu,), 1)
    assert library.down
    assert ctypes.sizeof(ctypes.c_ulonglong * 3) == 24  # nvmlMemory_t and nvmlProcessInfo_t


def test_a_driver_that_refuses_says_why(put: Callable[[Any], None]) -> None:
    put(Library(status=18))
    assert nvml.read_nvidia() == Nvidia(error="Driver/library version mismatch")


def test_hardware_and_a_kernel_driver_are_seen_without_a_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, vendor, kind in [("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"), ("2", "0x8086", "0x030000")]:
        device = tmp_path / "bus" / name
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{kind}\n")
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.10  Thu Jan 23\nGCC version: 12\n")
    monkeypatch.setattr(nvml, "BUS", tmp_path / "bus")
    monkeypatch.setattr(nvml, "KERNEL_DRIVER", version)
    monkeypatch.setattr(nvml, "NVML_LIBRARIES", ())
    assert nvml.read_nvidia() == Nvidia(hardware=1, kernel_driver="570.86.10")
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n")
    assert nvml.read_nvidia().kernel_driver == "580.95.05"
