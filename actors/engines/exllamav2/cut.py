"""The library's sampler, for many jobs at once, from the few most likely tokens of each. Pure.

The library's sampler (exllamav2_ext/cpp/sampling.cpp, 0.3.2) looks at the whole vocabulary on the CPU, one job at a
time. Where top_k, top_p or min_p leaves only a few candidates, those few are enough to know what it would choose. Two
of its habits matter: of equally likely candidates the one with the higher id comes first, and top_p leaves out the
candidate that would overshoot but goes on to take smaller ones that still fit.

The library computes in float32, so a random number that falls close to the border of two candidates may go either
way. `choose` says for every row whether its answer is certain; the others must be sampled from the full row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.engines.exllamav2.settings import MAX_CANDIDATES, is_greedy, top_k_of
from actors.sampling import SamplingParams

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ids = NDArray[np.int64]

MARGIN = 1e-5
"""Bound on the error of a sum of at most 500 probabilities in float32 (500 x 2^-25)."""
DRAW_SCALE = 0.9998
"""By which the library scales a random number, so that rounding never carries it past the last candidate."""
SMALLEST = 1e-6
"""Probabilities below this never enter the library's top_p."""
_TIES = 16
_PENALISED = 64
_SCANNED = 128


@dataclass(frozen=True, slots=True)
class Cut:
    """The samplers of one job. `top_k` 0 means that min_p alone cuts; 1 is greedy."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    logprobs: int = 0

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0

    @property
    def candidates(self) -> int:
        """How many of the most likely tokens are nearly always enough to choose, and always to report."""
        ranked = self.top_k + _TIES if self.top_k else _SCANNED
        return max(ranked + (_PENALISED if self.penalised else 0), self.logprobs)


def cut_of(params: SamplingParams) -> Cut | None:
    """What `choose` needs to know, or None if the job has samplers that need the full row."""
    if params.changed() - _KNOWN or params.repetition_penalty < 1.0 or params.presence_penalty < 0.0:
        return None
    rest = (params.repetition_penalty, params.presence_penalty, params.logprobs or 0)
    if is_greedy(params):
        return Cut(1.0, 1, 0.0, 0.0, *rest)
    top_k = top_k_of(params)
    if top_k > MAX_CANDIDATES or (top_k == 0 and params.min_p == 0.0):
        return None
    return Cut(params.temperature, top_k, params.top_p, params.min_p, *rest)


_KNOWN = frozenset(
    {
        "max_new_tokens",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "logprobs",
    }
)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The most likely tokens of each row, most likely first and of equal ones the higher id first.

    `bound` is a value that no token left out exceeds, per row: -inf where none is left out.
    """

    values: NDArray[np.float32]
    ids: Ids
    bound: NDArray[np.float32]


def choose(candidates: Candidates, cuts: Sequence[Cut], draws: Sequence[float]) -> tuple[Ids, Bools]:
    """The token that the library's sampler takes in each row, and whether that is certain."""
    tokens = np.zeros(len(cuts), dtype=np.int64)
    certain = np.zeros(len(cuts), dtype=np.bool_)
    random = np.asarray(draws, dtype=np.float64) * DRAW_SCALE
    # Three kinds of jobs, each in one go over all its rows:
    # - greedy: the most likely token, certain if no token that was left out can be as likely;
    # - ranked (top_k, then perhaps top_p and min_p): the library has sorted candidates by falling likelihood;
    # - scanned (min_p alone): the library has not sorted anything, so it draws from the candidates in another order,
    #   that of falling ids, and the same random number falls on another one.
    top_k = np.array([cut.top_k for cut in cuts])
    for rows, method in ((top_k == 1, _greedy), (top_k > 1, _ranked), (top_k == 0, _scanned)):
        if rows.any():
            part = Candidates(candidates.values[rows], candidates.ids[rows], candidates.bound[rows])
            chosen = [cut for cut, wanted in zip(cuts, rows, strict=True) if wanted]
            tokens[rows], certain[rows] = method(part, chosen, random[rows])
    return tokens, certain & np.isfinite(candidates.values[:, 0])


def _greedy(candidates: Candidates, cuts: Sequence[Cut], random: Floats) -> tuple[Ids, Bools]:
    """The most likely; of equal ones the lowest id."""
    values = candidates.values
    equal = (values == values[:, :1]).sum(axis=1)
    return np.take_along_axis(candidates.ids, equal[:, None] - 1, axis=1)[:, 0], values[:, 0] > candidates.bound


def _ranked(candidates: Candidates, cuts: Sequence[Cut], random: Floats) -> tuple[Ids, Bools]:
    width = candidates.values.shape[1]
    top_k = np.minimum([cut.top_k for cut in cuts], width)
    values, ids, certain = _take_top_k(candidates, top_k)
    temperature = np.array([[cut.temperature] for cut in cuts])
    places = np.arange(values.shape[1])
    inside = places < top_k[:, None]
    # From here on as the library does it: temperature, softmax over the top_k, top_p, min_p, draw. Each of them may
    # leave a row that float32 would decide otherwise than float64 does; such a row is not certain. Two candidates that
    # are nearly equal after the temperature are one of these cases: float32 may have them the other way round.
    scaled = (values - values[:, :1]) / temperature
    gaps = -np.diff(scaled, axis=1)
    certain &= ~((gaps > 0) & (gaps < MARGIN / 10) & inside[:, 1:]).any(axis=1)
    weights = np.where(inside, np.exp(scaled), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    taken, spare = inside, np.zeros(len(cuts))
    top_p = np.array([cut.top_p for cut in cuts])
    nucleus = (top_p > 0.0) & (top_p < 1.0) & (top_k > 1)
    if nucleus.any():
        taken = taken.copy()
        taken[nucleus], spare[nucleus], sure = _nucleus(weights[nucleus], top_p[nucleus])
        certain[nucleus] &= sure
    taken, spare, sure = _min_p(weights, taken, spare, np.array([cut.min_p for cut in cuts]))
    column, settled = _draw(np.where(taken, weights, 0.0), spare, random)
    return np.take_along_axis(ids, column[:, None], axis=1)[:, 0], certain & sure & settled


def _take_top_k(candidates: Candidates, top_k: NDArray[np.int64]) -> tuple[Floats, Ids, Bools]:
    """Values and ids with the library's choice of `top_k` in front; rows where that cannot be known are not certain."""
    values, ids = candidates.values, candidates.ids
    width = values.shape[1]
    last = np.take_along_axis(values, top_k[:, None] - 1, axis=1)[:, 0]
    certain = last > candidates.bound
    following = np.take_along_axis(values, np.minimum(top_k, width - 1)[:, None], axis=1)[:, 0]
    split = certain & (top_k < width) & (following == last)
    if split.any():
        ids = ids.copy()
        for row in np.flatnonzero(split):
            ids[row] = _equal_at_border(values[row], ids[row], int(top_k[row]))
    return values.astype(np.float64), ids, certain


def _equal_at_border(values: NDArray[np.float32], ids: Ids, top_k: int) -> Ids:
    """Which of the equal candidates at the border are in. The library goes through the vocabulary with a heap: an equal
    one gets in only while the heap is not full, and of those in, a better one drives out the lowest id."""
    border = values[top_k - 1]
    better, equal = ids[values > border], ids[values == border]
    first = np.sort(np.concatenate([better, equal]))[:top_k]
    kept = np.sort(np.intersect1d(equal, first))[::-1][: top_k - len(better)]
    left_out = np.setdiff1d(equal, kept)[::-1]
    return np.concatenate([better, kept, left_out, ids[values < border]])


def _nucleus(weights: Floats, limit: Floats) -> tuple[Bools, Floats, Bools]:
    """The library's top_p: which are taken, how much more might be (where float32 decides), and which rows are sure.

    It takes candidates as long as they fit; then it leaves out one that does not, and goes on with smaller ones.
    """
    usable = np.where(weights >= SMALLEST, weights, 0.0)
    sums = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(usable, axis=1)], axis=1)
    count = (usable > 0).sum(axis=1)
    end = np.minimum((sums[:, 1:] <= limit[:, None]).sum(axis=1), count)
    sure = _clear_of(sums, end, count, limit)
    taken = np.arange(weights.shape[1]) < np.maximum(end, 1)[:, None]
    gap = limit - np.take_along_axis(sums, end[:, None], axis=1)[:, 0]
    spare = np.zeros(len(weights))
    for row in np.flatnonzero(sure & (end > 0) & (gap > SMALLEST) & (end + 1 < count)):
        first = int(end[row]) + 1
        places, spare[row] = _fill(usable[row, first : count[row]].tolist(), float(gap[row]))
        taken[row, [first + place for place in places]] = True
    return taken, spare, sure


def _fill(weights: list[float], gap: float) -> tuple[list[int], float]:
    """Which of `weights`, largest first, are taken one by one as long as they fit the gap that is left, and how much
    more might be from where float32 decides."""
    falling = [-weight for weight in weights]
    places: list[int] = []
    place = 0
    while gap > SMALLEST:
        place = bisect_right(falling, -(gap + MARGIN), place)
        if place == len(weights):
            break
        if weights[place] > gap - MARGIN:
            return places, gap + MARGIN
        gap -= weights[place]
        places.append(place)
        place += 1
    return places, 0.0


def _clear_of(sums: Floats, end: NDArray[np.int64], count: NDArray[np.int64], limit: Floats) -> Bools:
    """Whether the sums up to `end` and one further are both clear of the limit."""
    at = np.take_along_axis(sums, end[:, None], axis=1)[:, 0]
    after = np.take_along_axis(sums, np.minimum(end + 1, count)[:, None], axis=1)[:, 0]
    return (np.abs(at - limit) > MARGIN) & ((end >= count) | (np.abs(after - limit) > MARGIN))


def _min_p(weights: Floats, taken: Bools, spare: Floats, min_p: Floats) -> tuple[Bools, Floats, Bools]:
    """Cut by a share of the best. Where the library's loop finds nothing to drop it takes one too many: not sure."""
    # Not sure are: a candidate close to the threshold; nothing to drop, where the library takes one too many; and a
    # top_p that has left open whether a candidate above the threshold is in.
    wanted = (min_p > 0.0) & (min_p < 1.0) & (taken.sum(axis=1) > 1)
    threshold = weights[:, 0] * min_p
    above = weights >= threshold[:, None]
    close = (np.abs(weights - threshold[:, None]) < MARGIN * threshold[:, None]) & taken
    all_kept = (above | ~taken).all(axis=1)
    sure = ~wanted | ~(close.any(axis=1) | all_kept | (spare > threshold))
    return np.where(wanted[:, None], taken & above, taken), np.where(wanted, 0.0, spare), sure


def _draw(weights: Floats, spare: Floats, random: Floats) -> tuple[Ids, Bools]:
    """The column that the random number falls into, whether or not `spare` more weight lies behind the last one."""
    sums = np.cumsum(weights, axis=1)
    total = sums[:, -1]
    margin = MARGIN * (total + spare)
    low = (sums < (random * total - margin)[:, None]).sum(axis=1)
    high = (sums < (random * (total + spare) + margin)[:, None]).sum(axis=1)
    return np.minimum(low, weights.shape[1] - 1), low == high


def _scanned(candidates: Candidates, cuts: Sequence[Cut], random: Floats) -> tuple[Ids, Bools]:
    """min_p alone. The library then has the kept candidates in order of falling ids."""
    temperature = np.array([[cut.temperature] for cut in cuts])
    min_p = np.array([[cut.min_p] for cut in cuts])
    best = candidates.values[:, :1].astype(np.float64)
    weights = np.exp((candidates.values - best) / temperature)
    unseen = np.exp((candidates.bound[:, None] - best) / temperature)
    # Certain only if no candidate is close to the threshold and none of those left out can reach it. And the order must
    # be that of falling ids: the library moves what it keeps, from the end on, to the front of its list, so none of it
    # may stand in front already.
    kept = weights >= min_p
    certain = (np.abs(weights - min_p) > MARGIN * min_p).all(axis=1) & (unseen < min_p * (1 - MARGIN))[:, 0]
    count = kept.sum(axis=1)
    lowest = np.where(kept, candidates.ids, np.iinfo(np.int64).max).min(axis=1)
    order = np.argsort(np.where(kept, -candidates.ids, 1), axis=1, kind="stable")
    ids = np.take_along_axis(candidates.ids, order, axis=1)
    ordered = np.take_along_axis(np.where(kept, weights, 0.0), order, axis=1)
    column, settled = _draw(ordered / np.maximum(ordered.sum(axis=1, keepdims=True), 1.0), np.zeros(len(cuts)), random)
    return np.take_along_axis(ids, column[:, None], axis=1)[:, 0], certain & settled & (lowest > count)
