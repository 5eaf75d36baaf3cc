"""Trying libraries in a fresh process: this one takes no CUDA context, and outlives what they do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.doctor.facts import ExLlamaV2, Libraries, Package, Question, Toolchain, Torch
from cluster.doctor.trial_script import MARK

SCRIPT = Path(__file__).with_name("trial_script.py").read_text(encoding="utf-8")
"""Its text, since a node has no such file."""
LAST_WORDS = 300


def try_libraries(question: Question, *, gpu: bool) -> Libraries:
    """What works in a new process that finds the same modules as this one. Never raises for what it finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-c", question.script, *(["gpu"] if gpu else [])]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, err = process.communicate(timeout=question.timeout_s)
        ended = None if process.returncode == 0 else _how_it_ended(process.returncode, err)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        ended = f"gave no answer within {question.timeout_s:g} s"
    return read_output(out.decode(errors="replace"), ended)


def read_output(output: str, ended: str | None) -> Libraries:
    """What the script told until it ended."""
    found: dict[str, Any] = {}
    at = None
    for line in output.splitlines():
        if line.startswith(MARK):
            told = json.loads(line.removeprefix(MARK))
            at = told["stage"]
            if told["found"] is not None:
                found[at] = told["found"]
    return Libraries(
        torch=_torch(found["torch"]) if "torch" in found else None,
        flash_attn=Package(**found["flash_attn"]) if "flash_attn" in found else None,
        exllamav2=_exllamav2(found["exllamav2"]) if "exllamav2" in found else None,
        ended=ended,
        ended_at=None if ended is None else at,
    )


def _torch(found: dict[str, Any]) -> Torch:
    package = Package(**found.pop("package"))
    return Torch(package=package, architectures=tuple(found.pop("architectures", ())), **found)


def _exllamav2(found: dict[str, Any]) -> ExLlamaV2:
    toolchain = found.pop("toolchain", None)
    return ExLlamaV2(toolchain=None if toolchain is None else Toolchain(**toolchain), **found)


def _how_it_ended(status: int, err: bytes) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    lines = err.decode(errors="replace").strip().splitlines()
    return f"ended with status {status}: {lines[-1][:LAST_WORDS] if lines else 'it said nothing'}"
