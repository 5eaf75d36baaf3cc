"""Libraries are tried in a process of its own, whatever they do to it."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.doctor.facts import ExLlamaV2, Package, Question, Toolchain, Torch
from cluster.doctor.trial import SCRIPT, read_output, try_libraries
from cluster.doctor.trial_script import MARK


def tell(stage: str, found: object = None) -> str:
    return f"print({(MARK + json.dumps({'stage': stage, 'found': found}))!r}, flush=True)\n"


BEGUN = tell("torch") + tell("torch", {"package": {"version": "1"}, "cuda": "12.8"}) + tell("exllamav2")


def test_what_a_process_told_before_it_crashed_is_kept() -> None:
    found = try_libraries(Question(BEGUN + "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"), gpu=True)
    assert found.torch == Torch(Package("1"), "12.8")
    assert (found.ended, found.ended_at) == ("was ended by SIGSEGV", "exllamav2")
    assert found.exllamav2 is None


def test_what_ends_with_an_error_says_its_last_line() -> None:
    found = try_libraries(Question(BEGUN + "raise SystemExit('no memory')"), gpu=True)
    assert found.ended == "ended with status 1: no memory"


def test_what_hangs_is_ended() -> None:
    began_s = time.monotonic()
    found = try_libraries(Question(BEGUN + "import time\ntime.sleep(600)", timeout_s=1.0), gpu=True)
    assert time.monotonic() - began_s < 60.0
    assert (found.ended, found.ended_at) == ("gave no answer within 1 s", "exllamav2")


def test_all_that_can_be_told_is_read() -> None:
    torch = {"package": {"version": "2"}, "cuda": "12.8", "architectures": ["sm_90"], "gpus_seen": 2, "gpus_error": "x"}
    tools = {"cuda_home": "/c", "nvcc": "12.8", "ninja": True, "compiler": "g++", "python_headers": True, "built": True}
    stages = {"torch": torch, "flash_attn": {}, "exllamav2": {"version": "0.3.2", "toolchain": tools}}
    lines = ["noise", *(MARK + json.dumps({"stage": name, "found": found}) for name, found in stages.items())]
    found = read_output("\n".join(lines), None)
    assert found.torch == Torch(Package("2"), "12.8", ("sm_90",), 2, "x")
    assert found.flash_attn == Package()
    assert found.exllamav2 == ExLlamaV2("0.3.2", toolchain=Toolchain("/c", "12.8", True, "g++", True, True))
    assert (found.ended, found.ended_at) == (None, None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Comes before everything that is installed, so that what lies in it is what the process finds."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def put(folder: Path, name: str, **files: str) -> None:
    (folder / name).mkdir()
    for stem, text in {"__init__": "", **files}.items():
        (folder / name / f"{stem}.py").write_text(text)


FAKE_TORCH = """
__version__ = "9.9+cu128"
class version: cuda = "12.8"
class Result:
    def __matmul__(self, other): return self
    def __getitem__(self, key): return 64.0
class cuda:
    device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: False)
    get_arch_list = staticmethod(lambda: ["sm_90"])
float16 = None
ones = lambda *arguments, **options: Result()
"""


def test_packages_are_found_by_metadata_or_by_their_source(site: Path) -> None:
    put(site, "torch", __init__=FAKE_TORCH)
    put(site, "flash_attn", __init__='__version__ = "2.8.3.post2"')
    (site / "flash_attn_2_cuda.py").write_text("")
    put(site, "exllamav2", version='__version__ = "0.3.2"', attn="has_flash_attn_with_paged = True")
    (site / "exllamav2_ext.py").write_text("rms_norm = None")
    found = try_libraries(Question(SCRIPT), gpu=True)
    assert found.ended is None
    assert found.torch == Torch(Package("9.9+cu128"), "12.8", ("sm_90",), 1)
    assert found.flash_attn == Package("2.8.3.post2")
    assert found.exllamav2 is not None
    assert (found.exllamav2.prebuilt, found.exllamav2.extension_error, found.exllamav2.paged) == (True, None, True)


def test_what_cannot_be_imported_says_why(site: Path) -> None:
    put(site, "torch", __init__='raise ImportError("libcudart.so.12: cannot open")')
    put(site, "flash_attn", __init__='__version__ = "2.8.3"')
    (site / "flash_attn_2_cuda.py").write_text('raise ImportError("undefined symbol: x")')
    (site / "exllamav2_ext.py").write_text('raise ImportError("undefined symbol: y")')
    put(site, "exllamav2", version='__version__ = "0.3.2"')
    found = try_libraries(Question(SCRIPT), gpu=True)
    assert found.torch is not None
    assert "libcudart.so.12" in str(found.torch.package.error)
    assert found.flash_attn == Package("2.8.3", "ImportError: undefined symbol: x")
    assert found.exllamav2 is not None
    assert "libcudart" in str(found.exllamav2.extension_error) or "symbol: y" in str(found.exllamav2.extension_error)


def test_what_is_not_installed_is_told(site: Path) -> None:
    """Neither flash-attn nor the extension of ExLlamaV2 is part of the development environment, and torch is; the
    library is never imported, since that would begin to build."""
    put(site, "exllamav2", __init__='raise SystemExit("imported")', version='__version__ = "0.3.2"')
    found = try_libraries(Question(SCRIPT), gpu=True)
    assert found.ended is None
    assert found.torch is not None
    assert found.torch.package == Package(version("torch"))
    assert found.flash_attn == Package()
    assert found.exllamav2 is not None
    assert (found.exllamav2.prebuilt, found.exllamav2.paged) == (False, None)
    assert found.exllamav2.toolchain is not None


def test_without_a_gpu_only_torch_is_tried(site: Path) -> None:
    put(site, "torch", __init__=FAKE_TORCH)
    put(site, "exllamav2", __init__='raise SystemExit("imported")')
    found = try_libraries(Question(SCRIPT), gpu=False)
    assert found.torch is not None
    assert (found.flash_attn, found.exllamav2, found.ended) == (None, None, None)
