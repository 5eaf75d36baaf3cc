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
from cluster.doctor.memory import memory_need
from cluster.doctor.nvml import read_nvidia

pytestmark = pytest.mark.gpu

CACHE_TOKENS = 1024 * 1024
AT_MOST_TIMES = 1.25
"""The estimate is of the most that loading takes, and on the safe side, but not by more than this."""
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
print(json.dumps(taken + torch.cuda.max_memory_reserved() - torch.cuda.memory_reserved()))
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
    taken = json.loads(done.stdout.splitlines()[-1])
    need = memory_need(PoolConfig(**settings), read_model(builtin_model_path()), None, 1)
    assert need is not None
    assert taken <= need.total_bytes(CACHE_TOKENS) < taken * AT_MOST_TIMES
