"""The waiting requests of a class by size, so that one that could start is found behind thousands that could not.

A lane has the requests that need the same room and avoid the same workers: what a worker with room could run is asked
of a lane and not of each of its requests. Sizes are told apart by whole pages, and where the room of some worker ends
within a page (an odd context, a reserve), there too. Part of `class_queue.py`.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

from actors.messages import WorkerLimits
from actors.paging.hashes import PAGE_TOKENS
from actors.scheduling.order import put_in_place
from actors.scheduling.records import Request

MOST_SEEN = 64
"""Of one tenant in one lane no more are seen in a round than this: those of the window, and those behind it."""
Key = tuple[int, tuple[str, ...]]
"""The most tokens of a request of the lane, and the workers that are avoided, in order."""


class Served(Protocol):
    """A tenant, as far as lanes need to know it."""

    counter: float


class Room(Protocol):
    """What the workers with room could run at the moment. It shrinks while requests are started."""

    @property
    def most_tokens(self) -> int:
        """No request of more tokens can start; 0: none can."""
        ...

    def fits(self, request: Request) -> bool:
        """Whether a worker that the request does not avoid has so much room."""
        ...

    def cut_off(self) -> None:
        """As many were looked at as may be; there may be more that fit."""
        ...


class Lane:
    """Waiting requests of one key, by tenant.

    Counters change while tenants wait here. An entry that is too low is brought up to date at the top of the heap, as
    in `ClassQueue`. One may also be too high, by what its tenant was given back since: by no more than what was charged
    ahead for it then, which is what the order of tenants is exact to anyway.
    """

    __slots__ = ("_entries", "_heap", "waiting", "work")

    def __init__(self) -> None:
        self.waiting: dict[str, OrderedDict[str, Request]] = {}
        self.work = 0.0
        self._heap: list[tuple[float, str]] = []
        self._entries: set[str] = set()
        """Tenants with an entry in the heap, each with one; it may be of a tenant that does not wait any more."""

    def push(self, request: Request, counter: float) -> None:
        name = request.admission.tenant
        put_in_place(self.waiting.setdefault(name, OrderedDict()), request)
        self.work += request.work
        self.list(name, counter)

    def list(self, name: str, counter: float) -> None:
        if name not in self._entries:
            self._entries.add(name)
            heapq.heappush(self._heap, (counter, name))

    def remove(self, request: Request) -> None:
        name = request.admission.tenant
        requests = self.waiting[name]
        del requests[request.request_id]
        self.work -= request.work
        if not requests:
            del self.waiting[name]

    def first(self, tenants: Mapping[str, Served]) -> str | None:
        """The tenant here that was served least, as far as the heap knows; brings its top up to date."""
        heap = self._heap
        while heap:
            listed, name = heap[0]
            if name not in self.waiting:
                heapq.heappop(heap)
                self._entries.discard(name)
            elif tenants[name].counter != listed:
                counter = tenants[name].counter
                heapq.heapreplace(heap, (counter, name))
                if counter < listed:
                    return name
            else:
                return name
        return None

    def list_anew(self, tenants: Mapping[str, Served]) -> None:
        """All counters have changed."""
        self._heap = [(tenants[name].counter, name) for name in self.waiting]
        heapq.heapify(self._heap)
        self._entries = set(self.waiting)

    def put_aside(self) -> str:
        """Take the first tenant out of the order; `list` puts it back."""
        name = heapq.heappop(self._heap)[1]
        self._entries.discard(name)
        return name


class Lanes:
    """All lanes of a class."""

    def __init__(self, tenants: Mapping[str, Served]) -> None:
        self._tenants = tenants
        self._lanes: dict[Key, Lane] = {}
        self._keys: list[Key] = []
        self._ends: list[int] = [PAGE_TOKENS]
        """Where in its last page a size ends. There is one more for every worker of odd limits that ever was."""

    def __repr__(self) -> str:
        return f"<Lanes of {', '.join(f'{tokens} tokens' for tokens, _ in self._keys) or 'nobody'}>"

    def tell_apart(self, limits: WorkerLimits) -> None:
        """Workers of these limits come: have no lane of whose requests they could run some and not others."""
        ends = {limits.context_tokens % PAGE_TOKENS or PAGE_TOKENS, PAGE_TOKENS - limits.reserve_tokens % PAGE_TOKENS}
        if ends.issubset(self._ends):
            return
        self._ends = sorted(ends.union(self._ends))
        lanes, self._lanes, self._keys = self._lanes, {}, []
        for lane in lanes.values():
            for requests in lane.waiting.values():
                for request in requests.values():
                    self.push(request)

    def push(self, request: Request) -> None:
        whole = (request.own_pages - 1) * PAGE_TOKENS
        request.size_tokens = whole + self._ends[bisect_left(self._ends, request.tokens - whole)]
        key = _key(request)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
            insort(self._keys, key)
        lane.push(request, self._tenants[request.admission.tenant].counter)

    def remove(self, request: Request) -> None:
        key = _key(request)
        lane = self._lanes[key]
        lane.remove(request)
        if not lane.waiting:
            del self._lanes[key]
            del self._keys[bisect_right(self._keys, key) - 1]

    def list_anew(self) -> None:
        """The counters of all tenants have changed."""
        for lane in self._lanes.values():
            lane.list_anew(self._tenants)

    @property
    def most_tokens(self) -> int:
        """What a worker has to hold to run all that wait."""
        return self._keys[-1][0] if self._keys else 0

    def work_beyond(self, tokens: int) -> float:
        """Worker-seconds of all that wait and are larger than so many tokens, which is what some worker holds."""
        return sum(self._lanes[key].work for key in self._keys[bisect_right(self._keys, (tokens + 1,)) :])

    def _up_to(self, tokens: int) -> list[Key]:
        return self._keys[: bisect_right(self._keys, (tokens + 1,))]

    def fitting(self, most: int, round_: int, room: Room) -> Iterator[Request]:
        """Requests that a worker with room could run, in fair order, each once, at most `most` that stay. Those that
        `round_` has seen already are passed over."""
        aside: list[tuple[Lane, str]] = []
        try:
            while most > 0:
                best: tuple[float, tuple[float, int], Request] | None = None
                for key in self._up_to(room.most_tokens):
                    head = self._head(self._lanes[key], round_, aside)
                    if head is not None and (best is None or head[:2] < best[:2]) and room.fits(head[2]):
                        best = head
                if best is None:
                    return
                request = best[2]
                request.looked_at = round_
                yield request
                most -= self._waits(request)
            room.cut_off()
        finally:
            for lane, name in aside:
                if name in lane.waiting:
                    lane.list(name, self._tenants[name].counter)

    def _waits(self, request: Request) -> bool:
        lane = self._lanes.get(_key(request))
        return lane is not None and request.request_id in lane.waiting.get(request.admission.tenant, ())

    def _head(
        self, lane: Lane, round_: int, aside: list[tuple[Lane, str]]
    ) -> tuple[float, tuple[float, int], Request] | None:
        """(its tenant's counter, its place, request) of the first request of a lane that was not seen yet."""
        while (name := lane.first(self._tenants)) is not None:
            for request in islice(lane.waiting[name].values(), MOST_SEEN):
                if request.looked_at != round_:
                    return self._tenants[name].counter, request.place, request
            aside.append((lane, lane.put_aside()))
        return None

    def validate(self) -> None:
        """:raises AssertionError: a tenant that waits is not listed, or lanes are out of order."""
        assert self._keys == sorted(self._lanes), "the lanes are out of order"
        for key, lane in self._lanes.items():
            assert lane.waiting, "an empty lane is kept"
            assert lane._entries >= lane.waiting.keys(), "a tenant who waits is not listed in its lane"
            assert all(_key(r) == key for one in lane.waiting.values() for r in one.values()), "in a wrong lane"

    def __len__(self) -> int:
        """Requests in all lanes."""
        return sum(len(requests) for lane in self._lanes.values() for requests in lane.waiting.values())


def _key(request: Request) -> Key:
    avoided = request.admission.excluded_workers
    return request.size_tokens, tuple(sorted(avoided)) if avoided else ()
