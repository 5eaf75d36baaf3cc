"""Step reports while they are collected: what the dispatcher hears of a worker, at most once per interval."""

from __future__ import annotations

from actors.messages import AttemptFinished, AttemptStarted, StepReport, StepSample
from actors.worker.engine_thread import StepNews

MAX_SAMPLES = 256
"""Step samples kept between two reports; older ones are dropped, since rates are learned from recent steps anyway."""


class ReportBuilder:
    """Folds the news of steps into one report. Sequence numbers go on over the worker's life."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self.sequence = 0
        self._known_pages: frozenset[bytes] = frozenset()
        self._pages: frozenset[bytes] = frozenset()
        self._clear()

    def _clear(self) -> None:
        self._full = False
        self._dirty = False
        self._started: list[AttemptStarted] = []
        self._first_tokens: list[tuple[str, int]] = []
        self._finished: list[AttemptFinished] = []
        self._steps: list[StepSample] = []
        self._generated_tokens = 0

    def __bool__(self) -> bool:
        return self._dirty

    @property
    def urgent(self) -> bool:
        """Whether something changed that admission or placement depend on."""
        return bool(
            self._started
            or self._first_tokens
            or self._finished
            or self._full
            or (self._pages is not self._known_pages and self._pages != self._known_pages)
        )

    @property
    def pages(self) -> frozenset[bytes]:
        return self._pages

    def add(self, news: StepNews) -> None:
        self._dirty = True
        self._full = self._full or news.full
        self._started += news.started
        self._first_tokens += news.first_tokens
        self._finished += news.finished
        self._generated_tokens += news.generated_tokens
        self._steps += news.earlier
        if news.sample is not None:
            self._steps.append(news.sample)
        del self._steps[:-MAX_SAMPLES]
        if news.resident_pages is not None:
            self._pages = news.resident_pages

    def take(self, running: tuple[tuple[str, int], ...] = ()) -> StepReport:
        """The report of everything since the last one; call only when there is something (truth of the builder).

        `running` names every attempt that the worker holds now; it goes into reports that tell the whole truth.
        """
        self.sequence += 1
        before = frozenset() if self._full else self._known_pages
        report = StepReport(
            worker_id=self._worker_id,
            sequence=self.sequence,
            started=tuple(self._started),
            first_tokens=tuple(self._first_tokens),
            finished=tuple(self._finished),
            pages_added=tuple(self._pages - before),
            pages_evicted=tuple(before - self._pages),
            full=self._full,
            running=running if self._full else None,
            steps=tuple(self._steps),
            generated_tokens=self._generated_tokens,
        )
        self._known_pages = self._pages
        self._clear()
        return report
