"""Who is next: classes in order, tenants inside a class by what they were served.

Inside a class a virtual counter per tenant grows with what the tenant is served: uncached prompt tokens x 1, output
tokens x 2, divided by its weight. The lowest counter is next; a tenant that comes back after a pause starts at the
lowest of those who wait, so a pause earns no credit. (VTC: Sheng et al., Fairness in Serving Large Language Models,
OSDI'24.) Output is charged ahead with its expected length and settled when the attempt ends.

A class below the first is served first as soon as it has been promised enough tokens: while it waits, every token of
the others' service earns it a small share. So nothing above can starve it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping

from actors.messages import WorkerLimits
from actors.results import Priority
from actors.scheduling.class_queue import OUTPUT_WEIGHT, ClassQueue
from actors.scheduling.lanes import Room
from actors.scheduling.records import Request

TRICKLE = {Priority.INTERACTIVE: 0.0, Priority.DEFAULT: 0.1, Priority.BATCH: 0.02}
"""Share of service that is guaranteed to a class that waits behind better ones."""
CLASSES = (Priority.INTERACTIVE, Priority.DEFAULT, Priority.BATCH)


class FairQueue:
    """All waiting requests."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._classes = {priority: ClassQueue(weights) for priority in CLASSES}
        self._deadlines: list[tuple[float, int, Request]] = []
        self._pushes = 0
        self._round = 0
        self._requests: dict[str, Request] = {}

    def __repr__(self) -> str:
        return f"<FairQueue: {', '.join(f'{priority.value} {queue!r}' for priority, queue in self._classes.items())}>"

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: Request) -> bool:
        return self._requests.get(request.request_id) is request

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests.values())

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Give tenants new weights. What they were served before stays as it was counted."""
        for queue in self._classes.values():
            queue.weigh(weights)

    def push(self, request: Request) -> None:
        """Add a request behind those of its tenant that asked before it: one that has waited or run already, before
        this attempt or this scheduler, keeps its place by that."""
        self._requests[request.request_id] = request
        self._classes[request.admission.priority].push(request)
        self._pushes += 1
        heapq.heappush(self._deadlines, (request.deadline_s, self._pushes, request))

    def remove(self, request: Request) -> None:
        del self._requests[request.request_id]
        self._classes[request.admission.priority].remove(request)

    def expired(self, now_s: float) -> list[Request]:
        """Requests whose deadline has passed; they are still in the queue, and told only once."""
        late = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            request = heapq.heappop(self._deadlines)[2]
            if request in self:
                late.append(request)
        self._compact()
        return late

    def _compact(self) -> None:
        """Requests that left early leave their deadline behind: sweep once they are the most."""
        if len(self._deadlines) > 2 * len(self._requests) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[2] in self]
            heapq.heapify(self._deadlines)

    def charge_start(self, request: Request, uncached_tokens: int) -> None:
        """Charge a tenant for a request that starts: its uncached prompt and its expected output."""
        request.charged_tokens = OUTPUT_WEIGHT * request.expected_tokens
        tokens = uncached_tokens + request.charged_tokens
        priority = request.admission.priority
        # Credit. A class that is served spends what it was promised; it cannot owe. Every other class that waits earns
        # its share of all service: of (others' tokens + its own), hence the division. Nobody earns while nobody of the
        # class waits, so that a quiet night does not become a claim on the morning (see `ClassQueue.remove`).
        self._classes[priority].charge(request.admission.tenant, tokens)
        for other, queue in self._classes.items():
            if other is priority:
                queue.credit_tokens = max(queue.credit_tokens - tokens, 0.0)
            elif queue.requests:
                queue.credit_tokens += TRICKLE[other] / (1.0 - TRICKLE[other]) * tokens

    def settle(self, request: Request, output_tokens: float) -> None:
        """Correct what was charged ahead by the output there really was. The credit stays: it was for a start."""
        queue = self._classes[request.admission.priority]
        queue.charge(request.admission.tenant, OUTPUT_WEIGHT * output_tokens - request.charged_tokens)
        request.charged_tokens = OUTPUT_WEIGHT * output_tokens

    def candidates(self, most: int, room: Callable[[Priority], Room] | None = None) -> Iterator[Request]:
        """Requests in the order in which they should be looked at, at most `most` of each class that stay; and of each
        class, behind those, as many again that fit its `room`."""
        self._round += 1
        for priority in self._order():
            queue = self._classes[priority]
            if not queue.requests:
                continue
            for request in queue.candidates(most, self._round, None if room is None else room(priority)):
                request.due = queue.credit_tokens > 0.0 and queue.covers(request)
                yield request

    def _order(self) -> list[Priority]:
        """Better classes first, but before all of them those that have been promised their first request's tokens."""
        due = [p for p in CLASSES if self._is_due(self._classes[p])]
        return due + [p for p in CLASSES if p not in due]

    @staticmethod
    def _is_due(queue: ClassQueue) -> bool:
        tenant = queue.first() if queue.credit_tokens > 0.0 else None
        return tenant is not None and queue.covers(next(iter(tenant.requests.values())))

    def work_ahead(self, request: Request) -> float:
        """Worker-seconds that will be served before a request that comes now: all of better classes, and of its own
        class its tenant's own work at the tenant's share, if that is less than all of it."""
        priority = request.admission.priority
        better = sum(self._classes[p].work for p in CLASSES[: CLASSES.index(priority)])
        queue = self._classes[priority]
        tenant = queue.tenants.get(request.admission.tenant)
        if tenant is None or not tenant.requests:
            return better + min(queue.work, queue.waiting_tenants * request.work)
        return better + min(queue.work, tenant.work * queue.waiting_weight / tenant.weight)

    @property
    def work(self) -> float:
        """Worker-seconds of all that waits."""
        return sum(queue.work for queue in self._classes.values())

    def tell_apart(self, limits: WorkerLimits) -> None:
        """Workers of these limits come, which may be other ones than those that were."""
        for queue in self._classes.values():
            queue.lanes.tell_apart(limits)

    def most_tokens(self, priority: Priority) -> int:
        """What a worker has to hold to run all requests of this class and better ones."""
        return max(self._classes[p].lanes.most_tokens for p in CLASSES[: CLASSES.index(priority) + 1])

    def share_up_to(self, priority: Priority, tokens: int) -> float:
        """Of the work of this class and better ones, the share of what a worker can run that holds so many tokens."""
        classes = [self._classes[p] for p in CLASSES[: CLASSES.index(priority) + 1]]
        work = sum(queue.work for queue in classes)
        beyond = sum(queue.lanes.work_beyond(tokens) for queue in classes)
        return min(max(1.0 - beyond / work, 0.0), 1.0) if work > 0.0 else 1.0

    def validate(self) -> None:
        """Check that the tenants' queues hold what the whole queue does, that every tenant who waits is listed, and
        that no counter has left the finite.

        :raises AssertionError: something was lost.
        """
        for queue in self._classes.values():
            waiting = [tenant for tenant in queue.tenants.values() if tenant.requests]
            assert queue.waiting_tenants == len(waiting), "the number of tenants who wait is wrong"
            assert queue.requests == sum(len(tenant.requests) for tenant in waiting), "the number of requests is wrong"
            assert all(tenant.listed is not None for tenant in waiting), "a tenant who waits is not listed"
            weight = sum(tenant.weight for tenant in waiting)
            assert math.isclose(queue.waiting_weight, weight, abs_tol=1e-6), "the weight of who waits is wrong"
            work = sum(request.work for tenant in waiting for request in tenant.requests.values())
            assert math.isclose(queue.work, work, abs_tol=1e-6), "the work that waits is wrong"
            queue.lanes.validate()
            assert len(queue.lanes) == queue.requests, "the lanes do not hold what the class does"
            numbers = [queue.credit_tokens, *(tenant.counter for tenant in queue.tenants.values())]
            assert all(math.isfinite(number) for number in numbers), "a counter has left the finite"
            for tenant in waiting:
                assert all(self._requests.get(i) is r for i, r in tenant.requests.items()), "a request was lost"
                places = [request.place for request in tenant.requests.values()]
                assert places == sorted(places), "the requests of a tenant are out of order"
        assert len(self) == sum(self.counts().values()), "the classes do not add up"

    def counts(self) -> dict[Priority, int]:
        return {priority: queue.requests for priority, queue in self._classes.items()}

    def tenants(self) -> list[tuple[Priority, str, int, float]]:
        """(class, tenant, waiting requests, counter) of all tenants that are remembered."""
        return [
            (priority, tenant.name, len(tenant.requests), tenant.counter)
            for priority, queue in self._classes.items()
            for tenant in queue.tenants.values()
        ]
