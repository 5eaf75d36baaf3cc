"""How long the simulated engine's steps take, and when the next is due."""

from __future__ import annotations

from collections.abc import Callable

from actors.config import SimulatedOptions

MAX_LAG_S = 0.25
"""An engine that is further behind its schedule than this gives it up instead of hurrying after it."""


class StepSchedule:
    """Steps that follow one another without drift: each is due at a fixed time after the one before."""

    def __init__(self, options: SimulatedOptions, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._options = options
        self._clock = clock
        self._sleep = sleep
        self._due_s: float | None = None

    def pause(self) -> None:
        """Nothing is left to do: the next step follows on no other."""
        self._due_s = None

    def wait(self, running_jobs: int, computed_tokens: int) -> float:
        """Let a step take its time; returns the time at its end."""
        # It is due at a time of its own, after the one before:
        # - it is the first after a pause, or so late that catching up would take long: it is counted from now;
        # - it is a little late: it does not sleep, and the next ones make up for it;
        # - it is early: it sleeps until it is due.
        now_s = self._clock()
        if self._due_s is None or now_s - self._due_s > MAX_LAG_S:
            self._due_s = now_s
        self._due_s += self._duration_s(running_jobs, computed_tokens)
        if self._due_s > now_s:
            self._sleep(self._due_s - now_s)
            now_s = self._clock()
        return now_s

    def _duration_s(self, running_jobs: int, computed_tokens: int) -> float:
        options = self._options
        duration_s = options.step_s + options.step_s_per_job * (running_jobs - 1)
        if options.prefill_tokens_per_s:
            duration_s += computed_tokens / options.prefill_tokens_per_s
        return duration_s
