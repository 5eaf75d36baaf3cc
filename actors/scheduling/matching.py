"""Which waiting requests start where, now: fair order, bounded skip-ahead, and workers kept for those skipped often."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from actors.results import Priority
from actors.scheduling.fair_queue import FairQueue
from actors.scheduling.fleet import Fleet
from actors.scheduling.placement import Placement, price_s, prompts_are_held_back
from actors.scheduling.policies import Policy
from actors.scheduling.records import Request, Worker, fits
from actors.scheduling.room import WorkersRoom

LOOKAHEAD = 16
"""Waiting requests of a class that are looked at when room appears; and as many again of those that, by their size, a
worker with room could run. What none could run does not count among these."""
MAX_SKIPS = 16
"""Later requests that may start on the worker a request waits for; then the worker is kept for it."""
MANY_WORKERS = 64
"""From so many on, scoring them all is dear: it is not done for a worker with room that is dearer than the place that
the request is held for, unless that was found too long ago."""
RESCORE_S = 0.05
SCORES_PER_EVENT = 16_000
"""Pairs (request, worker) that may be scored for one event; what is left over waits for the next one."""


class Match(NamedTuple):
    """Start this request on this worker; `resident_pages` of its prompt are there already."""

    request: Request
    worker: Worker


class Matchmaker:
    """Matches requests with workers. Changes nothing but its own notes on the requests it looks at."""

    def __init__(self, queue: FairQueue, fleet: Fleet, policy: Policy) -> None:
        self._queue = queue
        self._fleet = fleet
        self._policy = policy
        self._placement = Placement(fleet, policy)
        self._budget = 0
        self._changed: set[int] = set()
        """Workers, by index, that are kept for somebody, or not any more, since this was last looked at."""
        self.unseen: dict[Priority, set[int]] = {priority: set() for priority in Priority}
        """By class, workers (by index) whose room was not offered to all whom it might suit: there were too many."""
        self.looked_s = 0.0
        """When all workers were looked at last, for whoever waits."""

    def __repr__(self) -> str:
        kept = {request.request_id: index for index, request in self._placement.reserved.items()}
        return f"<Matchmaker by {type(self._policy).__name__}: workers kept for requests {kept}>"

    def matches(
        self, now_s: float, touched: set[int] | None, backlog_s: float, arrived: Request | None = None
    ) -> Iterator[Match]:
        """Yield what should start. The caller starts each match, and takes its request from the queue, before it asks
        for the next. `touched` are the indexes of workers where room appeared since the last call; None: look at all.
        `backlog_s` is how long the pool needs for everything that waits, `arrived` who has come since the last call.
        """
        self._budget = max(2, SCORES_PER_EVENT // max(len(self._fleet), 1))
        self._placement.backlog_s = backlog_s
        if touched is None:
            self.looked_s = now_s
            if not self._fleet.any_slot():
                touched = set()
        if touched is not None and not touched and arrived is None:
            return  # whoever waits was looked at before, and nothing has changed for anybody
        while True:
            self._changed.clear()
            yield from self._start_owners(now_s, touched)
            if touched is not None:
                touched = touched | self._changed
            self._changed.clear()
            yield from self._look(now_s, touched, arrived)
            if not self._changed:
                return
            # A worker is kept for somebody from now on, who may start there at once; or it is not any more, and those
            # who were looked at before that may.
            touched, arrived = set(self._changed), None

    def _start_owners(self, now_s: float, touched: set[int] | None) -> Iterator[Match]:
        """Those for whom a worker is kept start there as soon as it has room, wherever they stand in the order by now:
        nobody else may start there, so that it would stand idle until they had come to the front."""
        for index, request in list(self.reserved.items()):
            worker = self._fleet.by_index[index]
            assert worker is not None
            if self._placement.avoids(request, index):
                self.forget(request)
            elif (touched is None or index in touched) and worker.could_start(request) and self._budget:
                self._budget -= 1
                if self._score(request, now_s) is worker:
                    yield Match(request, worker)
                    self._policy.placed(index)

    def _look(self, now_s: float, touched: set[int] | None, arrived: Request | None) -> Iterator[Match]:
        """Look through the queue once, in fair order, as long as there is somebody for whom something has changed."""
        passed: list[Request] = []
        rooms: dict[Priority, WorkersRoom] = {}
        opened = self._opened(touched)
        if touched is not None and not opened and arrived is None:
            return
        self._placement.promised_pages.clear()
        for request in self._sequence(now_s, touched, arrived, rooms):
            if not request.scored or touched is None or self._worth_scoring(request, opened, now_s):
                if not self._budget:
                    self._note_unseen(touched if arrived is None or arrived.scored else None, cut_off=set(Priority))
                    return
                self._budget -= 1
                worker = self._score(request, now_s)
                if worker is not None:
                    yield Match(request, worker)
                    self._policy.placed(worker.index)
                    self._skip(passed, worker)
                    for room in rooms.values():
                        room.changed(worker)
                    opened = self._opened(touched)
                    if touched is not None and not opened and arrived is None:
                        break
                    continue
            self._promise(request)
            passed.append(request)
        self._note_unseen(touched, cut_off={priority for priority, room in rooms.items() if room.was_cut_off})

    def _opened(self, touched: set[int] | None) -> list[Worker]:
        """Those of the workers where room appeared that have a slot. None are listed where all are to be looked at."""
        workers = [self._fleet.by_index[index] for index in touched or ()]
        return [worker for worker in workers if worker is not None and worker.has_slot]

    def _sequence(
        self, now_s: float, touched: set[int] | None, arrived: Request | None, rooms: dict[Priority, WorkersRoom]
    ) -> Iterable[Request]:
        """Who is looked at. Where no room appeared, whoever was looked at before is where it was, and beyond the window
        only one who has just arrived may start, unless others there were not looked at: they come first."""

        def room(priority: Priority) -> WorkersRoom:
            rooms[priority] = WorkersRoom(self._fleet, self._placement, priority, now_s, touched)
            return rooms[priority]

        first = self._queue.candidates(LOOKAHEAD, room if touched is None or touched else None)
        return first if arrived is None else chain(first, self._beyond(arrived, now_s))

    def _beyond(self, arrived: Request, now_s: float) -> Iterator[Request]:
        if arrived.scored or arrived not in self._queue:
            return
        if self._placement.could_start_now(arrived, now_s, self.unseen[arrived.admission.priority]):
            yield arrived

    def _note_unseen(self, touched: set[int] | None, *, cut_off: set[Priority]) -> None:
        if touched is not None and not touched:
            return
        looked_at = set(range(len(self._fleet.by_index))) if touched is None else touched
        for priority, unseen in self.unseen.items():
            if priority in cut_off:
                unseen |= looked_at
            else:
                unseen -= looked_at

    def _score(self, request: Request, now_s: float) -> Worker | None:
        """Look for the best place; note it, and return it if the request can start there now."""
        request.scored = True
        place = self._placement.best(request, now_s)
        if place is None:
            request.wants = -1
            return None
        request.wants, request.place_wait_s, request.place_score = place
        request.scored_at_s = now_s
        return self._fleet.by_index[place.worker_index] if place.wait_s == 0.0 else None

    def _worth_scoring(self, request: Request, opened: list[Worker], now_s: float) -> bool:
        """Whether a worker that has more room than before could, and should, start the request.

        To score a request looks at all workers; this is to find out with little work that it would change nothing. It
        was scored before, and waits. Of the workers where room has appeared, one is worth it when it

        - has room for this request at all, and then either
        - is any, for a policy that does not hold: such a one takes what is ready; or where none was better before;
        - is the one that the request waits for, or that is kept for it;
        - is another one that may be better by now: if it is not held back by prompts that are due, and the pool is
          small (scoring is cheap), or the last score is old, or its price is below the score of the place waited for.
        """
        for worker in opened:
            if not worker.could_start(request):
                continue
            index = worker.index
            if not self._policy.holds or request.wants < 0 or index in (request.wants, request.reserves):
                return True
            if request.foreground and prompts_are_held_back(worker):
                continue
            if len(self._fleet) < MANY_WORKERS or now_s - request.scored_at_s > RESCORE_S:
                return True
            if price_s(request, worker, self._fleet) < request.place_score:
                return True
        return False

    def _promise(self, request: Request) -> None:
        """Those who come later in this round must not count on the room that this one waits for."""
        if request.wants >= 0:
            promised = self._placement.promised_pages
            promised[request.wants] = promised.get(request.wants, 0.0) + request.own_pages

    def _skip(self, passed: list[Request], worker: Worker) -> None:
        """A later request was started on this worker: note it with those that wait for the worker, or for any.

        `passed` are those that come before it in fair order and stay. One of them was skipped if it waits for this very
        worker, or for none in particular and could run here. One that waits for another worker lost nothing. After
        `MAX_SKIPS` the worker is kept for it alone, until it starts there or leaves: so the large are not starved by
        the small. A worker is kept for one request, and a request has one worker kept.
        """
        index, reserved = worker.index, self._placement.reserved
        for request in passed:
            if request.reserves >= 0 or not (request.wants == index or (request.wants < 0 and _may(request, worker))):
                continue
            request.skipped += 1
            if request.skipped >= MAX_SKIPS and index not in reserved:
                reserved[index] = request
                request.reserves = index
                self._changed.add(index)

    def forget(self, request: Request) -> int | None:
        """A request left the queue; returns the index of the worker that was kept for it, if there was one."""
        if request.reserves < 0:
            return None
        index, request.reserves = request.reserves, -1
        self._placement.reserved.pop(index, None)
        self._changed.add(index)
        return index

    def worker_gone(self, index: int) -> None:
        """A worker left: nothing can be kept there."""
        request = self._placement.reserved.pop(index, None)
        if request is not None:
            request.reserves = -1

    @property
    def holds(self) -> bool:
        """Whether a request may wait for a worker although another could start it."""
        return self._placement.holds

    @property
    def reserved(self) -> dict[int, Request]:
        return self._placement.reserved


def _may(request: Request, worker: Worker) -> bool:
    """Whether the worker could ever run the request."""
    admission = request.admission
    return fits(admission, worker.limits) and worker.worker_id not in admission.excluded_workers
