"""Where a request should go: scores of all workers at once, the lowest wins.

- `cost`: seconds until the request is done plus what its prefill costs those who run there already.
- `lmetric`: uncached prompt tokens x batch size (LMETRIC, arXiv 2603.15202).
- `power_of_two`: two workers by lot, the one with fewer requests (Mitzenmacher; the default router of Ray Serve).
- `least_requests`: the fewest requests.
- `round_robin`: one after the other.

Only `cost` may hold a request for a worker that has no room yet; the others choose among those that can start it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from actors.errors import ConfigurationError

DECODE_WEIGHT = 0.3
"""What a second of own decode counts beside a second of waiting, where somebody reads along. Found in the simulator:
0.3 gained 0.3 points of goodput over 1, and 2.5 where half of the workers are slow."""
BATCH_DECODE_WEIGHT = 1.0
"""The same in class batch, where only the end counts: at the end of a data set slow workers stop in time."""
Floats = NDArray[np.float64]
Number = TypeVar("Number", float, Floats)


@dataclass(slots=True)
class Candidates:
    """A request before all workers. Arrays have an entry per worker index.

    `wait_s` is the estimated time until the worker has pages and a slot for the request: 0 where it has them now.
    `batch` and `pending_prefill_tokens` are what the worker has booked; step times as in `StepTimes`.
    """

    expected_tokens: float
    miss_tokens: Floats
    wait_s: Floats
    eligible: NDArray[np.bool_]
    batch: Floats
    pending_prefill_tokens: Floats
    base_s: Floats
    per_job_s: Floats
    prefill_s: Floats
    decode_weight: float = DECODE_WEIGHT


class Policy(Protocol):
    """A way to choose. `holds`: it also scores workers that have no room yet, and a request waits for the best."""

    holds: bool

    def score(self, candidates: Candidates) -> Floats:
        """Scores, the lowest is best. Entries of workers that are not eligible are not looked at."""
        ...

    def placed(self, index: int) -> None:
        """A request was started on this worker."""
        ...


class _Stateless:
    holds = False

    def placed(self, index: int) -> None:
        """Nothing to remember."""


class Cost(_Stateless):
    """Wait + (1 + batch) x prefill that is due x its seconds + own decode at the batch size it makes.

    Every prefill step delays all who decode there, hence the weight: it is LMETRIC's product, in seconds, so that
    unequal workers and waits compare. Own decode weighs less than waiting for a first token (`DECODE_WEIGHT`): somebody
    who reads along feels a second less, and a slow worker that would stand idle is not spared. Not so in class batch.
    """

    holds = True

    def score(self, candidates: Candidates) -> Floats:
        c = candidates
        prefill_tokens = c.pending_prefill_tokens + c.miss_tokens
        return c.wait_s + cost_s(
            c.expected_tokens, prefill_tokens, c.batch, c.base_s, c.per_job_s, c.prefill_s, c.decode_weight
        )


def cost_s(
    expected_tokens: float,
    prefill_tokens: Number,
    batch: Number,
    base_s: Number,
    per_job_s: Number,
    prefill_s: Number,
    decode_weight: float = DECODE_WEIGHT,
) -> Number:
    """What `Cost` adds to the wait, for one worker or for many at once."""
    crowd = batch + 1.0
    return crowd * prefill_tokens * prefill_s + decode_weight * expected_tokens * (base_s + per_job_s * crowd)


class Lmetric(_Stateless):
    def score(self, candidates: Candidates) -> Floats:
        result: Floats = (candidates.pending_prefill_tokens + candidates.miss_tokens) * (candidates.batch + 1.0)
        return result


class LeastRequests(_Stateless):
    def score(self, candidates: Candidates) -> Floats:
        return candidates.batch


class PowerOfTwo(_Stateless):
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def score(self, candidates: Candidates) -> Floats:
        indexes = np.flatnonzero(candidates.eligible).tolist()
        scores = np.full(len(candidates.batch), np.inf)
        for index in self._random.sample(indexes, min(2, len(indexes))):
            scores[index] = candidates.batch[index]
        return scores


class RoundRobin:
    holds = False

    def __init__(self) -> None:
        self._next = 0

    def score(self, candidates: Candidates) -> Floats:
        count = len(candidates.batch)
        result: Floats = (np.arange(count, dtype=np.float64) - self._next) % count
        return result

    def placed(self, index: int) -> None:
        self._next = index + 1


POLICIES: dict[str, Callable[[int], Policy]] = {
    "cost": lambda seed: Cost(),
    "lmetric": lambda seed: Lmetric(),
    "power_of_two": PowerOfTwo,
    "least_requests": lambda seed: LeastRequests(),
    "round_robin": lambda seed: RoundRobin(),
}
"""Policies by name; each is made with a seed."""


def make_policy(name: str, seed: int) -> Policy:
    """A new policy.

    :raises ConfigurationError: there is none of that name.
    """
    if name not in POLICIES:
        raise ConfigurationError(f"There is no policy {name!r}; there are {', '.join(POLICIES)}.", param="policy")
    return POLICIES[name](seed)
