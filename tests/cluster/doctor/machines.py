"""Made-up machines: one that has all that a GPU worker needs, to be changed in one thing at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actors.config import PoolConfig
from cluster.doctor.facts import (
    ExLlamaV2,
    Gpu,
    Libraries,
    Machine,
    Model,
    Nvidia,
    Package,
    System,
    Torch,
)
from cluster.doctor.judge_system import WANTED_VARIABLES
from cluster.doctor.wanted import Wanted

GB = 1024**3
EXLPOOL = "1.2.3"

SYSTEM = System(
    memory_bytes=64 * GB,
    shm_bytes=32 * GB,
    open_files=65536,
    loopback_error=None,
    temp_dir_error=None,
    variables=dict(WANTED_VARIABLES),
    clock_s=0.0,
)
GPU = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-4090", 24 * GB, 23 * GB, (8, 9))
NVIDIA = Nvidia("570.86.10", (12, 8), (GPU,), 1, "570.86.10")
TORCH = Torch(Package("2.9.0+cu128"), "12.8", ("sm_75", "sm_80", "sm_86", "sm_90", "sm_120"), 1)
LIBRARIES = Libraries(TORCH, Package("2.8.3"), ExLlamaV2("0.3.2", prebuilt=True, paged=True))
MODEL = Model(
    "/models/llama",
    None,
    "exl2",
    "LlamaForCausalLM",
    5 * GB,
    {
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    },
)
GOOD = Machine("gpu-1", "3.12.3", "2.60.0", EXLPOOL, None, NVIDIA, LIBRARIES, (), SYSTEM)
HEAD = replace(
    GOOD, host="head", nvidia=Nvidia(), libraries=Libraries(Torch(Package("2.9.0+cpu"), None)), system=SYSTEM
)


def wanted(gpu: bool | None = None, *pools: dict[str, Any]) -> Wanted:
    builtin = replace(MODEL, path="/builtin", kind="unquantised", weight_bytes=5_000_000)
    return Wanted(EXLPOOL, builtin, gpu, tuple(PoolConfig(**pool) for pool in pools))


def with_gpus(machine: Machine, *gpus: Gpu) -> Machine:
    torch = replace(TORCH, gpus_seen=len(gpus))
    nvidia = replace(machine.nvidia, gpus=gpus, hardware=len(gpus))
    return replace(machine, nvidia=nvidia, libraries=replace(machine.libraries, torch=torch))
