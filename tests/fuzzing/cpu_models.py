"""The models that the CPU engine is tried with: tiny ones of several kinds, made once, each beside transformers'."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.engines.cpu import loading as cpu_loading
from tests.engines.cpu.harness import load_reference
from tests.engines.cpu.random_models import EXPERTS, write_random_model

VOCABULARY = 512
CACHE_PAGES = 10
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "max_position_embeddings": 1024,
}
# All experts at once: a rounding error must not send a token to another one.
ALL_EXPERTS = TINY | EXPERTS | {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", TINY),
    "window": ("MistralConfig", TINY | {"sliding_window": 20}),
    "long window": ("MistralConfig", TINY | {"sliding_window": 257}),
    "every second window": ("Gemma2Config", TINY | {"sliding_window": 40, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "sinks and window": ("GptOssConfig", ALL_EXPERTS | {"sliding_window": 30, "head_dim": 8}),
    "window in the mask": ("PhimoeConfig", ALL_EXPERTS | {"sliding_window": 33}),
    "window in some masks": (
        "Qwen2MoeConfig",
        ALL_EXPERTS | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 2},
    ),
}
ODD_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "kept in the cache": ("MoshiConfig", TINY | {"ffn_dim": 64, "num_key_value_heads": 4}),
    "kept by value": ("DogeConfig", TINY),
}
"""Kinds that the engine may refuse, where it cannot serve them right."""


@dataclass(frozen=True)
class Model:
    engine: CpuEngine
    reference: Any

    @property
    def room_tokens(self) -> int:
        assert self.engine._loaded is not None
        return self.engine._loaded.rows_room_tokens


@cache
def model(name: str) -> Model:
    """Of one of KINDS: a cache of CACHE_PAGES pages, no more rows than the pages need without sharing."""
    path = Path(tempfile.mkdtemp(prefix="exlpool-fuzz-"))
    write_random_model(path, *KINDS[name])
    engine = CpuEngine(
        EngineConfig(engine="cpu", model=path, cache_tokens=CACHE_PAGES * 256, chunk_tokens=256, max_batch_size=8)
    )
    with mock.patch.object(cpu_loading, "ROWS_PART_OF_FREE_MEMORY", 2**60):
        engine.load(lambda _: None)
    return Model(engine, load_reference(path, attn_implementation="eager"))


def odd_settings(random: Random) -> tuple[str, dict[str, Any]]:
    """A configuration of any kind, with a limit of attention of any length."""
    name, settings = random.choice([*KINDS.values(), *ODD_KINDS.values()])
    limit = random.choice([2, 3, 7, 8, 20, 23, 24, 25, 33, 64, 256, 300, 1023, 1024, 4096])
    limited = {key: limit for key in ("sliding_window", "keep_window_size") if key in settings}
    if name == "DogeConfig":
        limited = {random.choice(["keep_window_size", "sliding_window"]): limit}
    if name == "MoshiConfig":
        limited = {"sliding_window": limit}
    return name, settings | limited
