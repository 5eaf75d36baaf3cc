"""The requests of one class that wait: by tenant, and tenants by what they were served. Part of `fair_queue.py`."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from actors.scheduling.lanes import Lanes, Room
from actors.scheduling.order import put_in_place
from actors.scheduling.records import Request

OUTPUT_WEIGHT = 2.0
"""An output token counts as so many input tokens (VTC's default)."""
MAX_IDLE_TENANTS = 4096
"""Tenants without a waiting request whose counters are remembered, per class."""
LARGEST_COUNTER = 2.0**50
"""A counter that grows larger has all of its class reduced: beyond 2^53 a float no longer holds every whole number."""
RECOUNT_AFTER = 1 << 16
"""Removals after which sums are taken anew, so that they do not drift in a queue that is never empty."""


@dataclass(slots=True)
class Tenant:
    name: str
    weight: float
    counter: float = 0.0
    listed: float | None = None
    """Its counter as its valid entry in the heap has it; None: it has none."""
    requests: OrderedDict[str, Request] = field(default_factory=OrderedDict)
    work: float = 0.0


class ClassQueue:
    """The tenants of one class, the one that was served least first.

    Counters change all the time, and a heap cannot move what is in it. So its entries are only believed when they
    agree with their tenant (`listed`), and there is one such entry for every tenant that waits. An entry may be

    - right: `listed` and the counter are what it says;
    - too low, since the tenant was served: brought up to date when it comes to the top, which is early enough;
    - too high, since the tenant was given tokens back: then a second, lower entry is pushed, and this one is outdated;
    - outdated, or of a tenant that does not wait any more: dropped when it comes to the top.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self.tenants: dict[str, Tenant] = {}
        self.lanes = Lanes(self.tenants)
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._floor = 0.0
        """Where a tenant starts when nobody waits: the counter of the last one that did."""
        self._heap: list[tuple[float, str]] = []
        self._places = 0
        self._removals = 0
        self.requests = 0
        self.waiting_tenants = 0
        self.waiting_weight = 0.0
        self.work = 0.0
        self.credit_tokens = 0.0
        """Service that it has been promised while better classes were served, in tokens."""

    def __repr__(self) -> str:
        return (
            f"<{self.requests} requests of {self.waiting_tenants} tenants, {self.work:.3g} s of work, "
            f"{self.credit_tokens:.3g} tokens promised>"
        )

    def push(self, request: Request) -> None:
        name = request.admission.tenant
        tenant = self.tenants.get(name)
        if tenant is None:
            tenant = self.tenants[name] = Tenant(name, self.weight(name))
        if not tenant.requests:
            # Back from a pause: it starts level with the lowest of those who wait, unless it was served more than
            # that already. Where nobody waits, the last who did stands for them.
            lowest = self.first()
            tenant.counter = max(tenant.counter, self._floor if lowest is None else lowest.counter)
            self._idle.pop(name, None)
            self.waiting_tenants += 1
            self.waiting_weight += tenant.weight
        self._places += 1
        request.place = request.asked_s, self._places
        put_in_place(tenant.requests, request)
        self.lanes.push(request)
        tenant.work += request.work
        self.work += request.work
        self.requests += 1
        if tenant.listed is None:
            self._list(tenant)

    def weight(self, name: str) -> float:
        return self._weights.get(name, 1.0)

    def weigh(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        for tenant in self.tenants.values():
            weight = self.weight(tenant.name)
            if tenant.requests:
                self.waiting_weight += weight - tenant.weight
            tenant.weight = weight

    def _list(self, tenant: Tenant) -> None:
        tenant.listed = tenant.counter
        heapq.heappush(self._heap, (tenant.counter, tenant.name))
        # Outdated entries are dropped only at the top. Once they are by far the most, all are swept out.
        if len(self._heap) > 4 * self.waiting_tenants + 64:
            valid = {t.name: t.counter for t in self.tenants.values() if t.listed is not None and t.requests}
            for name, counter in valid.items():
                self.tenants[name].listed = counter
            self._heap = [(counter, name) for name, counter in valid.items()]
            heapq.heapify(self._heap)

    def first(self) -> Tenant | None:
        """The waiting tenant with the lowest counter; brings the top of the heap up to date."""
        while self._heap:
            listed, name = self._heap[0]
            tenant = self.tenants.get(name)
            if tenant is None or tenant.listed != listed:
                heapq.heappop(self._heap)
            elif not tenant.requests:
                heapq.heappop(self._heap)
                tenant.listed = None
            elif tenant.counter != listed:
                tenant.listed = tenant.counter
                heapq.heapreplace(self._heap, (tenant.counter, name))
            else:
                return tenant
        return None

    def remove(self, request: Request) -> None:
        tenant = self.tenants[request.admission.tenant]
        del tenant.requests[request.request_id]
        self.lanes.remove(request)
        tenant.work -= request.work
        self.work -= request.work
        self.requests -= 1
        if not tenant.requests:
            self._rest(tenant)
        if not self.requests:  # nothing is left: no rounding errors, and no promise to a class that does not wait
            self.work = self.waiting_weight = self.credit_tokens = 0.0
            self._floor = tenant.counter
        self._removals += 1
        if self._removals >= RECOUNT_AFTER:
            self._recount()

    def _recount(self) -> None:
        self._removals = 0
        for tenant in self.tenants.values():
            tenant.work = math.fsum(request.work for request in tenant.requests.values())
        self.work = math.fsum(tenant.work for tenant in self.tenants.values())
        self.waiting_weight = math.fsum(tenant.weight for tenant in self.tenants.values() if tenant.requests)

    def _rest(self, tenant: Tenant) -> None:
        tenant.work = 0.0
        self.waiting_tenants -= 1
        self.waiting_weight -= tenant.weight
        self._idle[tenant.name] = None
        if len(self._idle) > MAX_IDLE_TENANTS:
            del self.tenants[self._idle.popitem(last=False)[0]]

    def charge(self, name: str, tokens: float) -> None:
        tenant = self.tenants.get(name)
        if tenant is None:
            return
        tenant.counter += tokens / tenant.weight
        if tenant.counter > LARGEST_COUNTER:
            self._reduce_counters()
        elif tokens < 0 and tenant.listed is not None:
            self._list(tenant)

    def _reduce_counters(self) -> None:
        """Take from all counters what all have. They are only compared with each other, so this changes no order,
        unless a tenant is so far ahead that it would stay out of bounds: some of that is forgiven."""
        lowest = self.first()
        base = self._floor if lowest is None else lowest.counter
        for tenant in self.tenants.values():
            tenant.counter = min(max(tenant.counter - base, 0.0), LARGEST_COUNTER / 2)
            tenant.listed = None
        self._floor = min(max(self._floor - base, 0.0), LARGEST_COUNTER / 2)
        self._heap.clear()
        for tenant in self.tenants.values():
            if tenant.requests:
                self._list(tenant)
        self.lanes.list_anew()

    def covers(self, request: Request) -> bool:
        """Whether the class has been promised enough for the request to start before better classes."""
        return self.credit_tokens >= request.admission.prompt_tokens + OUTPUT_WEIGHT * request.expected_tokens

    def candidates(self, most: int, round_: int, room: Room | None = None) -> Iterator[Request]:
        """The window, and behind it requests that fit `room`: as many as there are in the window that do not."""
        return self._window(most, round_) if room is None else self._window_and_fitting(most, round_, room)

    def _window_and_fitting(self, most: int, round_: int, room: Room) -> Iterator[Request]:
        stayed = []
        for request in self._window(most, round_):
            yield request
            if request.worker is None:
                stayed.append(request)
        if self.requests > len(stayed) and room.most_tokens:
            yield from self.lanes.fitting(most - sum(map(room.fits, stayed)), round_, room)

    def _window(self, most: int, round_: int) -> Iterator[Request]:
        """Requests in fair order, each once, at most `most` that stay. The caller may remove the one it was given.

        A removal means that the request was started: its tenant was charged, so the order is another one, and the
        tenant that is first now goes on. A tenant of whom nothing could be started is put aside for this round, or it
        would be first for ever; it is looked at `depth` requests deep, so that one tenant does not take up the whole
        window. `round_` marks those that were given out: a tenant that was charged may come first again.
        """
        window, aside = most, []
        try:
            while most > 0 and (tenant := self.first()) is not None:
                depth = min(max(2, window // self.waiting_tenants), most)
                fresh = (r for r in islice(tenant.requests.values(), window) if r.looked_at != round_)
                for request in list(islice(fresh, depth)):
                    request.looked_at = round_
                    yield request
                    if request.request_id not in tenant.requests:
                        break
                    most -= 1
                else:
                    tenant.listed = None
                    aside.append(tenant)
        finally:
            for tenant in aside:
                if tenant.listed is None:
                    self._list(tenant)
