"""Step reports while they are collected: what the dispatcher hears of a worker, at most once per interval."""

from __future__ import annotations

from actors.messages import AttemptFinished, AttemptStarted, StepReport, StepSample
from actors.worker.commands import StepNews, WholeTruth

MAX_SAMPLES = 256
"""Step samples kept between two reports; older ones are dropped, since rates are learned from recent steps anyway."""


class ReportBuilder:
    """Folds the news of turns into one report. Sequence numbers go on over the worker's life.

    It keeps what has changed since the last report, and the whole truth only where news bring it: who holds what is
    the engine's to know and the dispatcher's to remember.
    """

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id
        self.sequence = 0
        self.generated_tokens = 0
        self.finished_requests = 0
        """Totals of this life of the worker, which a dispatcher that was restarted begins with."""
        self.clear()

    def clear(self) -> None:
        """Forget what has changed: the whole truth is told in another way."""
        self._dirty = False
        self.urgent = False
        """Something changed that admission or placement depend on."""
        self._started: list[AttemptStarted] = []
        self._first_tokens: list[tuple[str, int]] = []
        self._finished: list[AttemptFinished] = []
        self._pages: dict[bytes, bool] = {}
        """Of each page that changed, whether it is there now: the last change counts."""
        self._truth: WholeTruth | None = None
        self._steps: list[StepSample] = []
        self._generated_tokens = 0

    def __bool__(self) -> bool:
        return self._dirty

    def add(self, news: StepNews) -> None:
        self._dirty = True
        self.urgent = self.urgent or news.urgent
        self._started += news.started
        self._first_tokens += news.first_tokens
        self._finished += news.finished
        self._generated_tokens += news.generated_tokens
        self.generated_tokens += news.generated_tokens
        self.finished_requests += len(news.finished)
        self._steps += news.earlier
        if news.sample is not None:
            self._steps.append(news.sample)
        del self._steps[:-MAX_SAMPLES]
        if news.truth is not None:  # what it tells includes the changes of its own news
            self._truth = news.truth
            self._pages = {}
            return
        for page in news.pages_evicted:
            self._pages[page] = False
        for page in news.pages_added:
            self._pages[page] = True

    def take(self) -> StepReport:
        """The report of everything since the last one; call only when there is something (truth of the builder)."""
        self.sequence += 1
        added = frozenset(page for page, there in self._pages.items() if there)
        evicted = frozenset(self._pages.keys() - added)
        running: tuple[tuple[str, int], ...] | None = None
        if self._truth is not None:
            added = (self._truth.resident_pages - evicted) | added
            evicted = frozenset()
            running = self._running(self._truth)
        report = StepReport(
            worker_id=self._worker_id,
            sequence=self.sequence,
            started=tuple(self._started),
            first_tokens=tuple(self._first_tokens),
            finished=tuple(self._finished),
            pages_added=tuple(added),
            pages_evicted=tuple(evicted),
            full=self._truth is not None,
            running=running,
            steps=tuple(self._steps),
            generated_tokens=self._generated_tokens,
        )
        self.clear()
        return report

    def _running(self, truth: WholeTruth) -> tuple[tuple[str, int], ...]:
        """Every attempt that the worker holds after this report: those of the truth, and those that came after it."""
        told = [(running.admission.request_id, running.admission.attempt) for running in truth.running]
        later = [(started.request_id, started.attempt) for started in self._started]
        return tuple(dict.fromkeys(told + later))

    def __repr__(self) -> str:
        return f"<ReportBuilder of {self._worker_id}: {self.sequence} reports, {'more' if self else 'nothing'} to tell>"
