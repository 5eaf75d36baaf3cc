"""`exlpool doctor` on a machine that has all: it says so, and what it expects a model to take is what loading takes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from actors.builtin_model import builtin_model_path
from actors.config import PoolConfig
from cluster.doctor.gather import read_model
from cluster.doctor.memory import RUNTIME_BYTES, memory_need
from cluster.doctor.nvml import read_nvidia

pytestmark = pytest.mark.gpu

CACHE_TOKENS = 1024 * 1024
TENSORS_WITHIN = 1.25
"""How far the estimate of what torch reserves may be off, either way."""
ALL_WITHIN = 1.5
"""That of all that the driver sees the process take: its context differs between cards."""
LOAD_S = 300.0

LOAD = """
import json, os, sys
import torch
from actors.config import EngineConfig
from actors.engines.registry import create_engine
from cluster.doctor.nvml import read_nvidia

before = read_nvidia().gpus[0].free_bytes
engine = create_engine(EngineConfig(**json.loads(sys.argv[1])))
engine.load(lambda _: None)
taken = before - read_nvidia().gpus[0].free_bytes
print(json.dumps({"reserved": torch.cuda.max_memory_reserved(), "taken": taken}))
engine.close()
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, timeout=LOAD_S, check=False)


def test_nothing_is_missing_on_a_gpu_machine() -> None:
    arguments = ["doctor", "--gpu", "--json", "--model", str(builtin_model_path()), "--engine", "exllamav2"]
    done = run("from cluster.cli import main; main()", *arguments, "--cache-tokens", "65536")
    told = json.loads(done.stdout)
    (part,) = told["parts"]
    missing = [finding for finding in part["findings"] if finding["level"] == "missing"]
    assert missing == []
    assert done.returncode == 0, done.stderr
    checks = {finding["check"]: finding for finding in part["findings"]}
    assert checks.keys() >= {"driver", "GPU 0", "torch", "exllamav2", "flash-attn", "model", "memory"}
    assert "its extension computes" in checks["exllamav2"]["told"]
    assert "computes on" in checks["torch"]["told"]
    exllamav2 = part["machine"]["libraries"]["exllamav2"]
    assert (exllamav2["prebuilt"], exllamav2["paged"]) == (True, True)


def test_the_driver_tells_what_torch_does() -> None:
    import torch

    nvidia = read_nvidia()
    assert nvidia.driver is not None
    assert nvidia.cuda is not None
    assert len(nvidia.gpus) >= torch.cuda.device_count()
    properties = torch.cuda.get_device_properties(0)
    same = [gpu for gpu in nvidia.gpus if gpu.name == properties.name]
    assert same[0].capability == (properties.major, properties.minor)
    assert same[0].total_bytes == pytest.approx(properties.total_memory, rel=0.03)
    assert 0 < same[0].free_bytes <= same[0].total_bytes


@pytest.mark.parametrize("mode", ["fp16", "q8", "q4"])
def test_the_estimate_is_what_loading_takes(mode: str) -> None:
    settings: dict[str, Any] = {"engine": "exllamav2", "cache_tokens": CACHE_TOKENS, "cache_mode": mode}
    done = run(LOAD, json.dumps(settings))
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    model = read_model(builtin_model_path())
    need = memory_need(PoolConfig(**settings), model, None, 1)
    assert need is not None
    tensors = need.weight_bytes + need.scratch_bytes - RUNTIME_BYTES + need.bytes_per_token * CACHE_TOKENS
    told = {"reserved": measured["reserved"] / 2**20, "tensors": tensors / 2**20, "taken": measured["taken"] / 2**20}
    assert 1 / TENSORS_WITHIN < measured["reserved"] / tensors < TENSORS_WITHIN, told
    assert 1 / ALL_WITHIN < measured["taken"] / (tensors + RUNTIME_BYTES) < ALL_WITHIN, told
    assert measured["taken"] <= need.total_bytes(CACHE_TOKENS), told
