"""The program that a fresh process runs to try the libraries of a GPU worker: run by its text, so it imports nothing of
ours. What a library does to this process (a CUDA context, a crash, no end) it does to nobody else.

Prints a line of JSON when it begins with a library, and one with what it found. The argument "gpu" has it try those of
a GPU worker, else it stops after torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

MARK = "exlpool doctor: "
ROWS, COLUMNS = 4, 256
EPSILON = 1e-6
NVCC_WITHIN_S = 20.0


def tell(stage: str, found: dict[str, Any] | None) -> None:
    """`found` None: it begins."""
    print(MARK + json.dumps({"stage": stage, "found": found}), flush=True)


def said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def installed_version(name: str) -> str | None:
    """By the package's metadata, or by its source where it only lies on the path; None: it is not there."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = Path(spec.origin or ".").parent
    for file in (folder / "version.py", folder / "__init__.py"):
        if file.is_file():
            match = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", file.read_text(encoding="utf-8", errors="replace"))
            if match:
                return match[1]
    return "unknown"


def try_torch() -> dict[str, Any]:
    version = installed_version("torch")
    if version is None:
        return {"package": {}}
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return {"package": {"version": version, "error": said(error)}}
    found: dict[str, Any] = {"package": {"version": torch.__version__}, "cuda": torch.version.cuda}
    try:
        found["gpus_seen"] = torch.cuda.device_count()
        found["architectures"] = torch.cuda.get_arch_list()
        for device in range(found["gpus_seen"]):
            ones = torch.ones((64, 64), dtype=torch.float16, device=f"cuda:{device}")
            if float((ones @ ones)[0, 0]) != 64.0:
                raise ArithmeticError(f"GPU {device} multiplies wrongly")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        found["gpus_error"] = said(error)
    return found


def try_flash_attn() -> dict[str, Any]:
    version = installed_version("flash_attn")
    if version is None:
        return {}
    try:
        import flash_attn
        import flash_attn_2_cuda  # type: ignore[import-not-found]  # noqa: F401 - the compiled part
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return {"version": version, "error": said(error)}
    return {"version": flash_attn.__version__}


def try_exllamav2() -> dict[str, Any]:
    """Never imports the library where that would begin to build its extension."""
    version = installed_version("exllamav2")
    if version is None:
        return {}
    if importlib.util.find_spec("exllamav2_ext") is None:
        return {"version": version, "toolchain": toolchain()}
    found: dict[str, Any] = {"version": version, "prebuilt": True}
    try:
        import torch
        from exllamav2_ext import rms_norm

        if torch.cuda.is_available():
            rows = torch.full((ROWS, COLUMNS), 3.0, dtype=torch.float16, device="cuda:0")
            normed = torch.zeros_like(rows)
            rms_norm(rows, torch.ones(COLUMNS, dtype=torch.float16, device="cuda:0"), normed, EPSILON)
            torch.cuda.synchronize()
            if abs(float(normed.mean()) - 1.0) > 0.01:
                raise ArithmeticError("its kernels do nothing on this GPU")
        from exllamav2 import attn

        found["paged"] = bool(attn.has_flash_attn_with_paged)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        found["extension_error"] = said(error)
    return found


def toolchain() -> dict[str, Any]:
    """As torch will look for it when it builds the extension."""
    try:
        from torch.utils import cpp_extension
    except Exception:  # noqa: BLE001 - what is wrong with torch was told
        return {}
    home = cpp_extension.CUDA_HOME
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path("~/.cache/torch_extensions").expanduser())
    return {
        "cuda_home": home,
        "nvcc": nvcc_version(home),
        "ninja": cpp_extension.is_ninja_available(),
        "compiler": shutil.which(os.environ.get("CXX", "c++")),
        "python_headers": Path(sysconfig.get_path("include"), "Python.h").is_file(),
        "built": any(built.glob("**/exllamav2_ext/exllamav2_ext.so")),
    }


def nvcc_version(home: str | None) -> str | None:
    if home is None:
        return None
    try:
        done = subprocess.run(
            [str(Path(home, "bin", "nvcc")), "--version"], capture_output=True, text=True, timeout=NVCC_WITHIN_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release (\d+\.\d+)", done.stdout)
    return match[1] if match else None


def main() -> None:
    stages = {"torch": try_torch}
    if "gpu" in sys.argv[1:]:
        stages |= {"flash_attn": try_flash_attn, "exllamav2": try_exllamav2}
    for name, look in stages.items():
        tell(name, None)
        tell(name, look())


if __name__ == "__main__":
    main()
