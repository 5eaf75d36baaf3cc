"""What the workers with room could run at the moment: the look beyond the window asks it of whole lanes."""

from __future__ import annotations

import numpy as np

from actors.results import Priority
from actors.scheduling.fleet import Floats
from actors.scheduling.placement import Placement
from actors.scheduling.records import Request


class WorkersRoom:
    """For requests of one class; a `lanes.Room`. Computed when it is asked for, and again after `shrink`."""

    def __init__(self, placement: Placement, priority: Priority, now_s: float, touched: set[int] | None) -> None:
        """`touched` are the indexes of the workers that count; None: all."""
        self.was_cut_off = False
        self._placement = placement
        self._priority = priority
        self._now_s = now_s
        self._touched = touched
        self._pages: Floats | None = None
        self._largest_pages = 0

    def __repr__(self) -> str:
        return f"<WorkersRoom of {self._priority.value}: {self.largest_pages} pages{', cut off' * self.was_cut_off}>"

    def shrink(self) -> None:
        """Something was started."""
        self._pages = None

    @property
    def largest_pages(self) -> int:
        self._look()
        return self._largest_pages

    def fits(self, request: Request) -> bool:
        pages = self._look()
        if not request.admission.excluded_workers:
            return request.own_pages <= self._largest_pages
        return bool((pages[self._placement.allowed(request)] >= request.own_pages).any())

    def cut_off(self) -> None:
        self.was_cut_off = True

    def _look(self) -> Floats:
        if self._pages is None:
            pages = self._placement.room_pages(self._priority, self._now_s)
            if self._touched is not None:
                mask = np.zeros(pages.size)
                mask[[index for index in self._touched if index < pages.size]] = 1.0
                pages = pages * mask
            self._pages, self._largest_pages = pages, max(int(pages.max(initial=0.0)), 0)
        return self._pages
