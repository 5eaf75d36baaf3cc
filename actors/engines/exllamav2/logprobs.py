"""Log-probabilities as results have them, from raw logits."""

from __future__ import annotations

import torch

from actors.results import TokenLogprobs


def logprobs_of(raw: torch.Tensor, token_id: int, count: int) -> TokenLogprobs:
    """From one row of raw logits, float32."""
    normaliser = float(torch.logsumexp(raw, dim=-1))
    top: tuple[tuple[int, float], ...] = ()
    if count:
        values, ids = torch.topk(raw, min(count, raw.shape[-1]))
        top = top_logprobs(values.tolist(), ids.tolist(), normaliser)
    return TokenLogprobs(token_id, float(raw[token_id]) - normaliser, top)


def top_logprobs(values: list[float], ids: list[int], normaliser: float) -> tuple[tuple[int, float], ...]:
    """Pairs of id and log-probability from logits, most likely first, and the logarithm of their whole sum."""
    return tuple((token_id, value - normaliser) for value, token_id in zip(values, ids, strict=True))
