"""What the workers with room could run at the moment: the look beyond the window asks it of whole lanes."""

from __future__ import annotations

from actors.results import Priority
from actors.scheduling.fleet import Fleet
from actors.scheduling.placement import PEAK_MARGIN, Placement, prompts_are_held_back
from actors.scheduling.records import PEAK_HALF_LIFE_S, Request, Worker, WorkerStatus, most_tokens


class WorkersRoom:
    """For requests of one class; a `lanes.Room`. Computed when it is first asked for."""

    def __init__(
        self, fleet: Fleet, placement: Placement, priority: Priority, now_s: float, touched: set[int] | None
    ) -> None:
        """`touched` are the indexes of the workers that count; None: all."""
        self.was_cut_off = False
        self._fleet = fleet
        self._placement = placement
        self._priority = priority
        self._now_s = now_s
        self._touched = touched
        self._tokens: dict[int, int] | None = None
        self._most_tokens = 0

    def __repr__(self) -> str:
        return f"<WorkersRoom of {self._priority.value}: {self.most_tokens} tokens{', cut off' * self.was_cut_off}>"

    def changed(self, worker: Worker) -> None:
        """Something was started on this worker, or it is kept for somebody from now on."""
        if self._tokens is not None and worker.index in self._tokens:
            self._tokens[worker.index] = self._tokens_of(worker)
            self._most_tokens = max(self._tokens.values())

    @property
    def most_tokens(self) -> int:
        if self._tokens is None:
            self._look()
        return self._most_tokens

    def fits(self, request: Request) -> bool:
        if request.size_tokens > self.most_tokens:
            return False
        if not request.admission.excluded_workers:
            return True
        allowed, tokens = self._placement.allowed(request), self._tokens or {}
        return any(allowed[index] and most >= request.size_tokens for index, most in tokens.items())

    def cut_off(self) -> None:
        self.was_cut_off = True

    def _look(self) -> None:
        by_index = self._fleet.by_index
        indexes = range(len(by_index)) if self._touched is None else self._touched
        workers = (by_index[index] for index in indexes if index < len(by_index))
        self._tokens = {worker.index: self._tokens_of(worker) for worker in workers if worker is not None}
        self._most_tokens = max(self._tokens.values(), default=0)

    def _tokens_of(self, worker: Worker) -> int:
        """The most tokens of a request of this class that could start there now, shared pages aside; 0: none could.
        The same as `Placement` finds for all workers at once."""
        limits = worker.limits
        slots, pages = worker.most_attempts - len(worker.attempts), worker.ledger.free_pages
        if slots < 1 or worker.status is not WorkerStatus.UP or worker.index in self._placement.reserved:
            return 0
        if self._priority is not Priority.BATCH:
            if self._placement.holds and prompts_are_held_back(worker):
                return 0
        elif worker.attempts:
            fade = PEAK_MARGIN * 0.5 ** ((self._now_s - worker.peak_at_s) / PEAK_HALF_LIFE_S)
            if worker.background_prefills and worker.peak_slots * fade >= 1.0:
                return 0
            if slots - max(int(worker.peak_slots * fade) - worker.foreground_slots, 0) < 1:
                return 0
            pages -= max(int(worker.peak_pages * fade) - worker.foreground_pages, 0)
        return max(most_tokens(limits, pages), 0)
