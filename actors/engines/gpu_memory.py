"""GPU memory of ExLlamaV2: what a model and its cache take, and the sentence for when it is not enough."""

from __future__ import annotations

from dataclasses import dataclass

from actors.config import CacheMode
from actors.paging.hashes import PAGE_TOKENS

GB = 1024**3
RESERVED_BYTES = 448 * 1024**2
"""What `load_autosplit` keeps free on a device: 192 MiB, and a guard of 256 MiB (0.3.2)."""

_BYTES_PER_ELEMENT: dict[CacheMode, float] = {"fp16": 2.0, "q8": 1.0625, "q6": 0.8125, "q4": 0.5625}


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What the keys and values of one token take."""

    layers: int
    kv_heads: int
    head_dim: int
    mode: CacheMode

    @property
    def bytes_per_token(self) -> float:
        """Keys and values of all layers. Quantised modes also hold one layer's pair in FP16 to work on."""
        elements = 2 * self.kv_heads * self.head_dim
        working = 0.0 if self.mode == "fp16" else elements * 2.0
        return elements * self.layers * _BYTES_PER_ELEMENT[self.mode] + working


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a model takes: weights, scratch space on each device, cache."""

    weight_bytes: int
    scratch_bytes: int
    devices: int
    bytes_per_token: float

    @property
    def fixed_bytes(self) -> int:
        return self.weight_bytes + self.devices * (self.scratch_bytes + RESERVED_BYTES)

    def total_bytes(self, cache_tokens: int) -> int:
        return self.fixed_bytes + int(cache_tokens * self.bytes_per_token)

    def tokens_that_fit(self, free_bytes: int, most: int) -> int:
        """Whole pages of cache in what the model leaves free, at most `most` tokens; one page at least."""
        left = max(free_bytes - self.fixed_bytes, 0) * 0.95  # what fragmentation and splitting over devices lose
        pages = min(int(left / self.bytes_per_token), most) // PAGE_TOKENS
        return max(pages, 1) * PAGE_TOKENS


def shortage(need: MemoryNeed, cache_tokens: int, free_bytes: int, cache_mode: CacheMode) -> str:
    """What to say when a model does not fit."""
    needed = need.total_bytes(cache_tokens)
    missing = max(needed - free_bytes, 0)
    short = f"about {missing / GB:.1f} GB short" if missing else "too fragmented or taken by another process meanwhile"
    cache_gb = cache_tokens * need.bytes_per_token / GB
    quantise = "" if cache_mode == "q4" else "use a quantised `cache_mode` (q8, q6, q4), "
    return (
        f"The model needs about {needed / GB:.1f} GB of GPU memory ({need.weight_bytes / GB:.1f} GB of weights, "
        f"{cache_gb:.1f} GB of cache for {cache_tokens} tokens) and {free_bytes / GB:.1f} GB are free, {short}: "
        f"lower `cache_tokens`, {quantise}give the worker more GPUs, or take a model with fewer bits per weight."
    )
