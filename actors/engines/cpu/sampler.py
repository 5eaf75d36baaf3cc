"""Choosing tokens from logits, for a whole batch at once where the settings allow it.

The order is transformers' and ExLlamaV2's: bias, penalties and masks on raw logits, then temperature, top_k, top_p and
min_p. Randomness is counted, not streamed: the draw at a position depends on the seed and the position alone, so a
text does not depend on its company, and a completion that is continued elsewhere draws what it would have drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from actors.results import TokenLogprobs

_CANDIDATES = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """How one row is drawn, after its logits have been adjusted. Temperature 0 is greedy; 0, 1 and 0 switch top_k,
    top_p and min_p off. `uniform` in [0, 1) decides the draw."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    uniform: float = 0.0

    @property
    def filtered(self) -> bool:
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


def choose(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    """A token id per row of `logits` (rows, vocab_size), float32."""
    drawn = [row for row, choice in enumerate(choices) if choice.temperature > 0]
    if not drawn:
        return _ids(logits.argmax(-1))
    chosen = _ids(logits.argmax(-1)) if len(drawn) < len(choices) else [0] * len(choices)
    for filtered in (False, True):
        rows = [row for row in drawn if choices[row].filtered is filtered]
        if not rows:
            continue
        some = [choices[row] for row in rows]
        scores = logits if len(rows) == len(choices) else logits[rows]
        scores = scores / torch.tensor([[choice.temperature] for choice in some])
        found = _draw_filtered(scores, some) if filtered else _draw(scores, some)
        for row, token_id in zip(rows, found, strict=True):
            chosen[row] = token_id
    return chosen


def _draw(scores: Tensor, choices: Sequence[Choice]) -> list[int]:
    return _ids(_invert(scores.softmax(-1), choices))


def _draw_filtered(scores: Tensor, choices: Sequence[Choice]) -> list[int]:
    """Draw among the most likely tokens; rows whose filters keep more than those are sorted whole."""
    size = scores.shape[-1]
    count = min(size, max([_CANDIDATES, *(choice.top_k for choice in choices)]))
    best, ids = scores.topk(count)
    weights, enough = _weights(scores, best, choices)
    chosen = _ids(ids.gather(1, _invert(weights, choices)[:, None])[:, 0])
    if count < size and not all(enough):
        rows = [row for row, done in enumerate(enough) if not done]
        some = [choices[row] for row in rows]
        best, ids = scores[rows].sort(descending=True, stable=True)
        weights, _ = _weights(scores[rows], best, some)
        found = _ids(ids.gather(1, _invert(weights, some)[:, None])[:, 0])
        for row, token_id in zip(rows, found, strict=True):
            chosen[row] = token_id
    return chosen


def _weights(scores: Tensor, best: Tensor, choices: Sequence[Choice]) -> tuple[Tensor, list[bool]]:
    """Unnormalised probabilities of the candidates `best` (rows, count, descending), 0 for those that a filter drops,
    and for each row whether no filter would have kept a token beyond them."""
    places = torch.arange(best.shape[1])
    top_k = torch.tensor([[choice.top_k or scores.shape[-1]] for choice in choices])
    in_top_k = places < top_k
    kept_best = best.masked_fill(~in_top_k, -math.inf)
    # Where top_k is off, probabilities are shares of the whole vocabulary, of which the candidates are a part; where it
    # is on, of the top_k alone, as if there were no others. Candidates are enough for a row when the last of them is
    # dropped: everything beyond it is less likely still.
    whole = torch.tensor([[choice.top_k == 0] for choice in choices])
    total = torch.where(whole, scores.logsumexp(-1, keepdim=True), kept_best.logsumexp(-1, keepdim=True))
    probabilities = (kept_best - total).exp()
    before = probabilities.double().cumsum(-1) - probabilities
    kept = in_top_k & (before < torch.tensor([[choice.top_p] for choice in choices], dtype=torch.float64))
    floor = torch.tensor([[math.log(choice.min_p) if choice.min_p else -math.inf] for choice in choices])
    kept &= best >= best[:, :1] + floor
    kept[:, 0] = True  # top_p 0 keeps the most likely token
    return probabilities.masked_fill(~kept, 0.0), (~kept[:, -1]).tolist()


def _invert(weights: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Where each row's draw falls in its cumulated weights: the index of a token with a weight above 0."""
    sums = weights.cumsum(-1, dtype=torch.float64)
    draws = torch.tensor([[choice.uniform] for choice in choices], dtype=torch.float64)
    return torch.searchsorted(sums, draws * sums[:, -1:], right=True)[:, 0].clamp_(max=weights.shape[-1] - 1)


def _ids(tensor: Tensor) -> list[int]:
    values: list[int] = tensor.tolist()
    return values


def token_logprobs(logits: Tensor, token_ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    """What to report of each row of raw `logits` (rows, vocab_size): its chosen token and its `tops` likeliest."""
    logprobs = logits.float().log_softmax(-1)
    own: list[float] = logprobs.gather(1, torch.tensor(token_ids)[:, None])[:, 0].tolist()
    count = min(max(tops), logits.shape[-1])
    best, ids = logprobs.topk(count)
    pairs = [list(zip(*row, strict=True)) for row in zip(ids.tolist(), best.tolist(), strict=True)]
    return [
        TokenLogprobs(token_id, logprob, tuple(row[:top]))
        for token_id, logprob, row, top in zip(token_ids, own, pairs, tops, strict=True)
    ]
