"""Each thing that is missing gives its one finding, with a cure, and nothing else changes."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.doctor.facts import ExLlamaV2, Libraries, Machine, Package, Toolchain, Torch
from cluster.doctor.findings import Finding, Level
from cluster.doctor.judge import all_good, judge_machine
from cluster.doctor.judge_libraries import EXLLAMAV2_REQUIREMENT, has_kernels, torch_build
from cluster.doctor.judge_system import OLDEST_RAY, PYTHONS
from tests.cluster.doctor.machines import (
    EXLPOOL,
    GB,
    GOOD,
    GPU,
    HEAD,
    LIBRARIES,
    NVIDIA,
    SYSTEM,
    TORCH,
    wanted,
    with_gpus,
)

TOOLS = Toolchain("/usr/local/cuda", "12.8", True, "/usr/bin/c++", True, False)


def libraries(**changes: Any) -> Machine:
    return replace(GOOD, libraries=replace(LIBRARIES, **changes))


def torch(**changes: Any) -> Machine:
    return libraries(torch=replace(TORCH, **changes))


def to_build(**changes: Any) -> Machine:
    return libraries(exllamav2=ExLlamaV2("0.3.2", toolchain=replace(TOOLS, **changes)))


def nvidia(**changes: Any) -> Machine:
    return replace(GOOD, nvidia=replace(NVIDIA, **changes))


def system(**changes: Any) -> Machine:
    return replace(GOOD, system=replace(SYSTEM, **changes))


def bad(findings: tuple[Finding, ...]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not Level.OK]


def test_a_machine_that_has_all_is_good() -> None:
    findings = judge_machine(GOOD, wanted(gpu=True))
    assert bad(findings) == []
    assert {finding.check for finding in findings} >= {"driver", "GPU 0", "torch", "exllamav2", "flash-attn", "Ray"}


NO_LIBRARIES = {"torch": None, "flash_attn": None, "exllamav2": None}

MISSING: dict[str, tuple[Machine, str, str, str]] = {
    # what: machine, check, words of what is there, words of the cure
    "old Python": (replace(GOOD, python="3.10.2"), "Python", "3.11 to 3.13", "3.12"),
    "new Python": (replace(GOOD, python="3.14.0"), "Python", "3.14.0", "3.12"),
    "no Ray": (replace(GOOD, ray=None), "Ray", "not installed", "ray[serve]>=2.60"),
    "old Ray": (replace(GOOD, ray="2.9.3"), "Ray", "2.9.3", "ray[serve]>=2.60"),
    "no exlpool": (replace(GOOD, exlpool=None), "exlpool", "not installed", f"pip install exlpool=={EXLPOOL}"),
    "other exlpool": (replace(GOOD, exlpool="1.0"), "exlpool", "1.0, not 1.2.3", f"pip install exlpool=={EXLPOOL}"),
    "loopback": (system(loopback_error="Network is unreachable"), "loopback", "unreachable", "ip link set lo up"),
    "no room": (system(temp_dir_error="Ray cannot; set X."), "temporary files", "Ray cannot", "Set X."),
    "no driver": (nvidia(driver=None, gpus=(), cuda=None, kernel_driver=None), "driver", "1 NVIDIA GPU", "Install"),
    "no driver library": (nvidia(driver=None, gpus=(), cuda=None), "driver", "570.86.10", "--gpus all"),
    "driver updated": (nvidia(driver=None, error="Driver/library version mismatch"), "driver", "mismatch", "restart"),
    "driver not loaded": (nvidia(driver=None, error="Driver Not Loaded"), "driver", "Not Loaded", "modprobe nvidia"),
    "no GPU given": (nvidia(gpus=()), "GPU", "570.86.10 knows none", "--gpus all"),
    "GPUs hidden": (replace(GOOD, visible_devices=""), "GPU", "hides all 1", "Unset CUDA_VISIBLE_DEVICES"),
    "other GPU visible": (replace(GOOD, visible_devices="7"), "GPU", "'7' hides", "Unset CUDA_VISIBLE_DEVICES"),
    "no torch": (torch(package=Package()), "torch", "not installed", "whl/cu128"),
    "torch broken": (torch(package=Package("2.9", "OSError: libcudart")), "torch", "libcudart", "whl/cu128"),
    "torch for CPUs": (torch(package=Package("2.9.0+cpu"), cuda=None), "torch", "for CPUs", "whl/cu128"),
    "torch too new": (torch(cuda="13.0"), "torch", "570.86.10 goes up to CUDA 12.8", "Update NVIDIA's driver, or pip"),
    "torch without kernels": (torch(architectures=("sm_90",)), "torch", "compute capability 8.9", "whl/cu128"),
    "torch fails": (torch(gpus_error="RuntimeError: no kernel image"), "torch", "no kernel image", "whl/cu128"),
    "torch blind": (torch(gpus_seen=0), "torch", "sees no GPU", "--gpus all"),
    "torch hangs": (libraries(**NO_LIBRARIES, ended="gave no answer", ended_at="torch"), "torch", "no answer", "cu128"),
    "no exllamav2": (libraries(exllamav2=ExLlamaV2()), "exllamav2", "not installed", EXLLAMAV2_REQUIREMENT),
    "old exllamav2": (libraries(exllamav2=ExLlamaV2("0.2.9")), "exllamav2", "0.2.9", EXLLAMAV2_REQUIREMENT),
    "new exllamav2": (libraries(exllamav2=ExLlamaV2("0.4.0")), "exllamav2", "0.4.0", EXLLAMAV2_REQUIREMENT),
    "extension": (
        libraries(exllamav2=ExLlamaV2("0.3.2", True, "ImportError: undefined symbol")),
        "exllamav2",
        "undefined symbol",
        "wheel for torch 2.9.0+cu128",
    ),
    "no nvcc": (to_build(nvcc=None), "exllamav2", "cannot build", "nvcc (CUDA toolkit 12.8"),
    "no ninja": (to_build(ninja=False), "exllamav2", "cannot build", "pip install ninja"),
    "no compiler": (to_build(compiler=None), "exllamav2", "cannot build", "g++"),
    "no headers": (to_build(python_headers=False), "exllamav2", "cannot build", "python3-dev"),
    "other nvcc": (to_build(nvcc="13.0"), "exllamav2", "nvcc 13.0 does not fit", "CUDA toolkit 12.8"),
    "exllamav2 crashes": (
        libraries(exllamav2=None, ended="was ended by SIGSEGV", ended_at="exllamav2"),
        "exllamav2",
        "SIGSEGV",
        "import exllamav2",
    ),
    "no flash-attn": (libraries(flash_attn=Package()), "flash-attn", "ONE job", "pip install flash-attn"),
    "old flash-attn": (libraries(flash_attn=Package("2.5.6")), "flash-attn", "2.5.7 or newer", "pip install -U"),
    "flash-attn broken": (libraries(flash_attn=Package("2.8.3", "ImportError: x")), "flash-attn", "x", "another torch"),
    "flash-attn unused": (
        libraries(exllamav2=ExLlamaV2("0.3.2", True, paged=False)),
        "flash-attn",
        "does not use it",
        "EXLLAMA_NO_FLASH_ATTN",
    ),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_is_one_finding(what: str) -> None:
    machine, check, told, cure = MISSING[what]
    findings = judge_machine(machine, wanted(gpu=True))
    (found,) = bad(findings)
    assert (found.check, found.level) == (check, Level.MISSING)
    assert told in found.told
    assert cure in found.cure
    assert not all_good(findings)


WARNINGS: dict[str, tuple[Machine, str, str]] = {
    "small shared memory": (system(shm_bytes=64 * 1024**2), "shared memory", "--shm-size=10gb"),
    "few open files": (system(open_files=1024), "open files", "ulimit"),
    "some GPUs unseen": (torch(gpus_seen=1), "torch", "nvidia-smi"),
    "extension to build": (to_build(), "exllamav2", "import exllamav2"),
}


@pytest.mark.parametrize("what", WARNINGS)
def test_what_could_be_better_is_one_warning(what: str) -> None:
    machine, check, cure = WARNINGS[what]
    if what == "some GPUs unseen":
        second = replace(GPU, index=1)
        machine = replace(machine, nvidia=replace(NVIDIA, gpus=(GPU, second), hardware=2))
    findings = judge_machine(machine, wanted(gpu=True))
    (found,) = bad(findings)
    assert (found.check, found.level) == (check, Level.WARNING)
    assert cure in found.cure
    assert all_good(findings)


def test_flash_attention_is_not_asked_of_a_gpu_that_has_none() -> None:
    old = replace(GPU, name="NVIDIA T4", capability=(7, 5))
    machine = with_gpus(libraries(flash_attn=Package()), old)
    (found,) = bad(judge_machine(machine, wanted()))
    assert (found.check, found.level) == ("flash-attn", Level.WARNING)
    assert "NVIDIA T4" in found.told


def test_an_extension_that_was_built_here_is_good() -> None:
    assert bad(judge_machine(to_build(built=True), wanted(gpu=True))) == []


def test_a_machine_without_a_gpu_is_good_unless_a_gpu_is_wanted() -> None:
    findings = judge_machine(HEAD, wanted())
    assert bad(findings) == []
    (gpu,) = [finding for finding in findings if finding.check == "GPU"]
    assert "fine for the CPU engine and for a head" in gpu.told
    (found,) = bad(judge_machine(HEAD, wanted(gpu=True)))
    assert (found.check, found.level) == ("GPU", Level.MISSING)
    assert "torch built for CUDA, exllamav2 and flash-attn" in found.cure


@pytest.mark.parametrize("machine", [torch(cuda=None), libraries(flash_attn=Package()), nvidia(driver=None)])
def test_nothing_of_a_gpu_is_missing_where_none_is_wanted(machine: Machine) -> None:
    assert bad(judge_machine(machine, wanted(gpu=False))) == [] or machine.nvidia.driver is None
    assert all_good(judge_machine(machine, wanted(gpu=False)))


def test_a_machine_whose_gpus_are_hidden_is_one_for_cpus() -> None:
    findings = judge_machine(replace(GOOD, visible_devices=""), wanted())
    assert bad(findings) == []
    assert any("hidden by CUDA_VISIBLE_DEVICES" in finding.told for finding in findings)


def test_a_container_without_the_host_s_gpu_is_one_for_cpus() -> None:
    container = replace(HEAD, nvidia=replace(NVIDIA, driver=None, gpus=(), cuda=None))
    (found,) = bad(judge_machine(container, wanted()))
    assert (found.check, found.level) == ("GPU", Level.WARNING)
    assert "--gpus all" in found.cure


@pytest.mark.parametrize(
    ("libraries_", "words"),
    [
        (Libraries(None, ended="gave no answer within 1 s"), "no answer"),
        (Libraries(Torch()), "not installed"),
        (Libraries(Torch(Package("2.9", "ImportError: libx"))), "libx"),
    ],
)
def test_torch_is_needed_without_a_gpu_too(libraries_: Libraries, words: str) -> None:
    (found,) = bad(judge_machine(replace(HEAD, libraries=libraries_), wanted()))
    assert (found.check, found.level) == ("torch", Level.MISSING)
    assert words in found.told
    assert "install" in found.cure


@pytest.mark.parametrize(
    ("cuda", "capability", "build"),
    [
        ((13, 0), (9, 0), "cu128"),
        ((12, 8), (12, 0), "cu128"),
        ((12, 8), (6, 1), "cu126"),
        ((12, 4), (8, 9), "cu126"),
        ((11, 8), (8, 6), None),
        (None, (8, 6), "cu128"),
    ],
)
def test_the_build_of_torch_fits_driver_and_gpu(
    cuda: tuple[int, int] | None, capability: tuple[int, int], build: str | None
) -> None:
    assert torch_build(cuda, [replace(GPU, capability=capability)]) == build
    machine = with_gpus(nvidia(cuda=cuda), replace(GPU, capability=capability))
    for_cpus = replace(machine, libraries=replace(LIBRARIES, torch=replace(TORCH, cuda=None)))
    (found,) = [one for one in bad(judge_machine(for_cpus, wanted())) if one.check == "torch"]
    assert (f"https://download.pytorch.org/whl/{build}" in found.cure) == (build is not None)
    assert ("driver 525" in found.cure) == (build is None)


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_80",), (8, 6), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("sm_80", "compute_80"), (9, 0), True),
        (("sm_90a",), (9, 0), True),
        (("sm_100", "sm_120"), (12, 0), True),
        (("sm_100",), (12, 0), False),
        (("gfx90a",), (9, 0), False),
    ],
)
def test_kernels_run_on_gpus_of_their_major_version(
    architectures: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    assert has_kernels(architectures, capability) is runs


@pytest.mark.parametrize(
    ("visible", "names"), [("1", ["GPU 1"]), ("GPU-b,0", ["GPU 1", "GPU 0"]), ("0,9,1", ["GPU 0"])]
)
def test_gpus_are_those_that_a_process_may_use(visible: str, names: list[str]) -> None:
    gpus = (replace(GPU, uuid="GPU-a"), replace(GPU, index=1, uuid="GPU-b"))
    findings = judge_machine(replace(with_gpus(GOOD, *gpus), visible_devices=visible), wanted())
    assert [finding.check for finding in findings if finding.check.startswith("GPU")] == names


def test_bounds_are_those_of_the_package() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest, below) = PYTHONS
    assert project["requires-python"] == f">={oldest[0]}.{oldest[1]},<{below[0]}.{below[1]}"
    assert f"ray[serve]>={OLDEST_RAY[0]}.{OLDEST_RAY[1]}" in project["dependencies"]
    assert project["optional-dependencies"]["exllamav2"] == [EXLLAMAV2_REQUIREMENT]


def test_memory_that_the_object_store_needs_is_that_of_ray() -> None:
    """Above 10 GB Ray makes its store no larger than shared memory, below it does not look."""
    assert bad(judge_machine(system(memory_bytes=1024 * GB, shm_bytes=11 * GB), wanted())) == []
    assert len(bad(judge_machine(system(memory_bytes=1024 * GB, shm_bytes=9 * 10**9), wanted()))) == 1
    assert bad(judge_machine(system(memory_bytes=8 * GB, shm_bytes=3 * GB), wanted())) == []
