"""How much GPU memory a worker will take, from the model's files alone."""

from __future__ import annotations

from actors.config import PoolConfig
from actors.engines.gpu_memory import CacheShape, MemoryNeed
from cluster.doctor.facts import Model

RUNTIME_BYTES = 832 * 1024**2
"""What a process takes on each GPU beside the model, its cache and its scratch space: CUDA's context (618 MiB on an
H100 with driver 580), kernels of torch, exllamav2 and flash-attn, and what is unpacked for a moment while weights are
read. tests/gpu compares the whole estimate with what a load takes."""
MAX_DEQUANTISED_WEIGHTS = 512 * 1024**2
"""`max_dq_size` of exllamav2 0.3.2: how much of a matrix it unpacks at a time."""
HALF_BYTES = 2
TILE = 32
"""exllamav2 pads the columns of the head to a multiple of this."""


def memory_need(pool: PoolConfig, model: Model, draft: Model | None, devices: int) -> MemoryNeed | None:
    """What loading takes, before any of it is done, when it is split over so many GPUs; None: config.json says too
    little to tell."""
    shape = _cache_shape(model, pool.cache_mode)
    draft_shape = None if draft is None else _cache_shape(draft, "fp16")
    if shape is None or (draft is not None and draft_shape is None):
        return None
    bytes_per_token = shape.bytes_per_token + (draft_shape.bytes_per_token if draft_shape else 0.0)
    weight_bytes = model.weight_bytes + (draft.weight_bytes if draft else 0)
    scratch = scratch_bytes(pool, model) + (scratch_bytes(pool, draft) if draft else 0)
    return MemoryNeed(weight_bytes, scratch + RUNTIME_BYTES, devices, bytes_per_token)


def context_tokens(pool: PoolConfig, model: Model) -> int:
    """The longest job; 2048 is what exllamav2 takes where config.json does not say."""
    return pool.context_tokens or model.config.get("max_position_embeddings") or 2048


def scratch_bytes(pool: PoolConfig, model: Model) -> int:
    """What exllamav2 keeps on each GPU to work in: activations of the longest forward, and one unpacked matrix, both
    for the module that needs most (`scratch_space_fixed` of its modules, 0.3.2)."""
    rows = min(pool.exllamav2.max_input_tokens, context_tokens(pool, model))
    hidden, inner, words = (model.config.get(name) or 0 for name in ("hidden_size", "intermediate_size", "vocab_size"))
    heads, head_dim = model.config.get("num_attention_heads") or 0, _head_dim(model) or 0
    mlp = rows * (hidden + 2 * max(hidden, inner)) * HALF_BYTES + _unpacked(hidden * inner)
    attention = rows * max(heads * head_dim, hidden) * HALF_BYTES + _unpacked(hidden * heads * head_dim)
    head = _unpacked(hidden * -(-words // TILE) * TILE)
    return max(mlp, attention, head)


def _unpacked(weights: int) -> int:
    return min(weights, MAX_DEQUANTISED_WEIGHTS) * HALF_BYTES


def _head_dim(model: Model) -> int | None:
    hidden, heads = model.config.get("hidden_size"), model.config.get("num_attention_heads")
    return model.config.get("head_dim") or (hidden // heads if hidden and heads else None)


def _cache_shape(model: Model, mode: str) -> CacheShape | None:
    layers, head_dim = model.config.get("num_hidden_layers"), _head_dim(model)
    kv_heads = model.config.get("num_key_value_heads") or model.config.get("num_attention_heads")
    if not layers or not kv_heads or not head_dim:
        return None
    return CacheShape(layers, kv_heads, head_dim, mode)  # type: ignore[arg-type]  # a CacheMode, or fp16
