"""How long a request would wait, estimated at its arrival, and how good such estimates turned out to be."""

from __future__ import annotations

import random

from actors.scheduling.fleet import Column, Fleet
from actors.scheduling.statistics import WaitErrorStatistics

KEEP = 0.98
"""Weight an observation loses with each newer one: about the last 50 waits count."""
PRIOR_S = 2.0
"""Seconds of waits for which the estimate is trusted before the first is observed."""
SCALE_BOUNDS = (0.1, 10.0)
JITTER = 0.1
SHORTEST_RETRY_S = 1.0
MEANS_AGE_S = 0.25
"""Means over the fleet are computed anew when they are older than this."""


class WaitEstimator:
    """Turns work that is ahead into seconds, and corrects itself by the waits that really happened."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._random = random.Random(seed)
        self._estimated_s = self._real_s = PRIOR_S
        self._place_wait_s = 0.0
        self._count = 0
        self._weight = self._error_s = self._absolute_s = 0.0
        self._means_at_s = float("-inf")
        self._slot_s = self._page_s = self._prefill_s = 0.0
        self._workers = 1
        self.miss_share = 1.0
        """Of prompt tokens, those that had to be computed, lately."""

    def __repr__(self) -> str:
        return (
            f"<WaitEstimator: waits turn out {self.scale:.3g} times as long as the work ahead, {self._count} seen, "
            f"{100 * self.miss_share:.3g} % of prompt tokens computed>"
        )

    def work(self, prompt_tokens: int, expected_tokens: float, pages: int, now_s: float) -> float:
        """Worker-seconds a request takes: its prefill, for which a worker does nothing else, and its decode in a
        share of a worker, the share of its pages or of one slot, whichever is more."""
        if now_s - self._means_at_s > MEANS_AGE_S:
            self._refresh(now_s)
        share_s = max(self._slot_s, pages * self._page_s)
        return prompt_tokens * self.miss_share * self._prefill_s + expected_tokens * share_s

    def _refresh(self, now_s: float) -> None:
        self._means_at_s = now_s
        up = self._fleet.column(Column.UP)
        self._workers = max(int(up.sum()), 1)
        times = self._fleet.mean_times()
        count = max(len(self._fleet), 1)
        batch = float(self._fleet.column(Column.BATCH).sum()) / count
        slots = batch + float(self._fleet.column(Column.FREE_SLOTS).sum()) / count
        pages = float(self._fleet.column(Column.TOTAL_PAGES).sum()) / count
        step_s = times.step_s(max(batch, 1.0))
        self._slot_s = step_s / max(slots, 1.0)
        self._page_s = step_s / max(pages, 1.0)
        self._prefill_s = times.prefill_s

    def wait_s(self, work_ahead: float, place_wait_s: float | None) -> float:
        """Estimated seconds until a request starts, with `work_ahead` worker-seconds before it and `place_wait_s`
        until its best worker has room (None: nobody looked; then that of recent others)."""
        place_s = self._place_wait_s if place_wait_s is None else place_wait_s
        return self.scale * (work_ahead / self._workers + place_s)

    def drain_s(self, work: float) -> float:
        """Seconds that the workers that are up need for so much work."""
        return self.scale * work / self._workers

    @property
    def scale(self) -> float:
        """What waits turn out to be, in terms of the work that was ahead, lately."""
        low, high = SCALE_BOUNDS
        return min(max(self._real_s / self._estimated_s, low), high)

    def looked(self, place_wait_s: float) -> None:
        """A request at the front of the queue was found to wait so long for its best worker."""
        if place_wait_s < 1e6:
            self._place_wait_s += 0.1 * (place_wait_s - self._place_wait_s)

    def started(self, estimated_s: float, real_s: float, scale: float | None = None) -> None:
        """A request that had to wait started after `real_s`; `estimated_s` had been foreseen, with the `scale` of that
        time (None: it is still the same)."""
        # `estimated_s` was corrected already, by the scale of its time. The next correction is learned from what the
        # estimate was before, or the scale would be multiplied into itself.
        error_s = real_s - estimated_s
        self._estimated_s = KEEP * self._estimated_s + estimated_s / (scale or self.scale)
        self._real_s = KEEP * self._real_s + real_s
        self._count += 1
        self._weight = KEEP * self._weight + 1.0
        self._error_s = KEEP * self._error_s + error_s
        self._absolute_s = KEEP * self._absolute_s + abs(error_s)

    def prefilled(self, prompt_tokens: int, miss_tokens: int) -> None:
        """A request was placed where so much of its prompt was missing."""
        self.miss_share += 0.02 * (miss_tokens / prompt_tokens - self.miss_share)

    def retry_after_s(self, estimated_s: float, bound_s: float) -> float:
        """When to try again: once half of the bound is free, with jitter, so that the refused don't return as one."""
        wait_s = max(estimated_s - bound_s / 2, SHORTEST_RETRY_S)
        return wait_s * self._random.uniform(1 - JITTER, 1 + JITTER)

    def statistics(self) -> WaitErrorStatistics:
        if not self._count:
            return WaitErrorStatistics()
        return WaitErrorStatistics(
            count=self._count, mean_s=self._error_s / self._weight, mean_absolute_s=self._absolute_s / self._weight
        )
