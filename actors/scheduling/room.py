"""What the workers with room could run at the moment: the look beyond the window asks it of whole lanes."""

from __future__ import annotations

from actors.paging.hashes import PAGE_TOKENS, pages_needed
from actors.results import Priority
from actors.scheduling.fleet import Fleet
from actors.scheduling.placement import PEAK_MARGIN, Placement, prompts_are_held_back
from actors.scheduling.records import PEAK_HALF_LIFE_S, Request, Worker, WorkerStatus


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
        self._pages: dict[int, int] | None = None
        self._largest_pages = 0

    def __repr__(self) -> str:
        return f"<WorkersRoom of {self._priority.value}: {self.largest_pages} pages{', cut off' * self.was_cut_off}>"

    def changed(self, worker: Worker) -> None:
        """Something was started on this worker, or it is kept for somebody from now on."""
        if self._pages is not None and worker.index in self._pages:
            self._pages[worker.index] = self._pages_of(worker)
            self._largest_pages = max(self._pages.values())

    @property
    def largest_pages(self) -> int:
        if self._pages is None:
            self._look()
        return self._largest_pages

    def fits(self, request: Request) -> bool:
        if request.own_pages > self.largest_pages:
            return False
        if not request.admission.excluded_workers:
            return True
        allowed, pages = self._placement.allowed(request), self._pages or {}
        return any(allowed[index] and room >= request.own_pages for index, room in pages.items())

    def cut_off(self) -> None:
        self.was_cut_off = True

    def _look(self) -> None:
        by_index = self._fleet.by_index
        indexes = range(len(by_index)) if self._touched is None else self._touched
        workers = (by_index[index] for index in indexes if index < len(by_index))
        self._pages = {worker.index: self._pages_of(worker) for worker in workers if worker is not None}
        self._largest_pages = max(self._pages.values(), default=0)

    def _pages_of(self, worker: Worker) -> int:
        """The most pages of a request of this class that could start there now, shared pages and the odd tokens of a
        page aside; 0: none could. The same as `Placement` finds for all workers at once."""
        limits = worker.limits
        slots, pages = limits.max_batch_size - len(worker.attempts), worker.ledger.free_pages
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
        return max(min(pages - limits.reserve_tokens // PAGE_TOKENS, pages_needed(limits.context_tokens)), 0)
