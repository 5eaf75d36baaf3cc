"""Jobs whose grammar is being compiled: they are submitted, but they start when it is ready."""

from __future__ import annotations

from collections.abc import Callable, Collection

from actors.engines.base import Ended, EngineEvent
from actors.engines.grammar import GrammarMask, WantedMask, wait_for
from actors.errors import ExlpoolError
from actors.results import FinishReason

IDLE_WAIT_S = 0.02
"""What a step that has nothing else to do waits for a grammar, rather than to come back at once."""

Start = Callable[[GrammarMask], None]


class GrammarWait:
    """Of one engine."""

    def __init__(self) -> None:
        self._jobs: dict[int, tuple[WantedMask, Start]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._jobs

    def add(self, job_id: int, wanted: WantedMask, start: Start) -> None:
        """Have `start` called in a later `move`, unless the job is cancelled or its grammar refused before."""
        self._jobs[job_id] = wanted, start

    def cancel(self, job_ids: Collection[int], events: list[EngineEvent]) -> None:
        """End those of the jobs that wait here."""
        for job_id in [job_id for job_id in self._jobs if job_id in job_ids]:
            self._end(job_id, FinishReason.CANCELLED, events)

    def move(self, events: list[EngineEvent], *, idle: bool) -> None:
        """Start the jobs whose grammars are ready, and end those whose grammars cannot be used. `idle`: nothing else
        is to be done in this step."""
        if not self._jobs:
            return
        if idle:
            wait_for([wanted for wanted, _ in self._jobs.values()], IDLE_WAIT_S)
        for job_id, (wanted, start) in list(self._jobs.items()):
            try:
                mask = wanted.take()
            except ExlpoolError as error:
                self._end(job_id, FinishReason.ERROR, events, error)
                continue
            if mask is not None:
                del self._jobs[job_id]
                start(mask)

    def clear(self) -> None:
        self._jobs.clear()

    def _end(
        self, job_id: int, reason: FinishReason, events: list[EngineEvent], error: ExlpoolError | None = None
    ) -> None:
        del self._jobs[job_id]
        events.append(Ended(job_id=job_id, reason=reason, completion_tokens=0, cached_tokens=0, error=error))
