"""Odd pools: workers of very different sizes, that start late, die, hang and lose reports; requests of all sizes and
classes, of tenants with extreme weights, that share prompts, give up and have deadlines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random

from actors.messages import WorkerLimits
from actors.paging.hashes import PAGE_TOKENS
from actors.results import Priority
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.events import TenantsWeighed, WorkerDraining, WorkerLost, WorkerSuspected
from actors.scheduling.policies import POLICIES
from actors.scheduling.recording import replay
from actors.scheduling.records import Request, RequestState, Worker, WorkerStatus, fits
from tests.fuzzing.scheduler_world import Slot, Speed, World
from tests.scheduling.pool import LIMITS, admission

CLAIM = (
    "whatever the pool and the load, no request waits beside a worker that could start it, none is lost, each has one "
    "end, no worker gets more than it has, all counters stay finite, and the same events give the same actions"
)
PAGES = (1, 2, 4, 16, 16, 64, 300)
BATCHES = (1, 1, 2, 4, 16)
WEIGHTS = (0.001, 0.5, 1.0, 1000.0)
LOAD_S = 200.0
"""Requests arrive, and accidents happen, for so long."""
DRAINED_S = 10_000.0
MOST_OUTPUT = 200
IDLE_TICKS = 3


class IdleTime:
    """How long each worker has stood idle beside one and the same request that it could run: no more than few ticks.

    The exceptions of the scheduler's own rule count here only where they may last: the request avoids the worker, or is
    held for a better one. What is kept for somebody, or back from somebody, is no reason for a worker to be idle.
    """

    def __init__(self) -> None:
        self._since_s: dict[tuple[str, str], float] = {}

    def check(self, world: World) -> None:
        state = world.scheduler.state
        idle = [worker for worker in state.fleet if worker.status is WorkerStatus.UP and not worker.attempts]
        pairs = {
            (worker.worker_id, request.request_id)
            for worker in idle
            for request in state.queue
            if fits(request.admission, worker.limits) and not self._has_better(world, request, worker)
        }
        self._since_s = {pair: self._since_s.get(pair, world.now_s) for pair in pairs}
        for (worker_id, request_id), since_s in self._since_s.items():
            idle_s = world.now_s - since_s
            assert idle_s <= IDLE_TICKS * world.tick_s, f"{worker_id} is idle for {idle_s:.1f} s beside {request_id}"

    @staticmethod
    def _has_better(world: World, request: Request, worker: Worker) -> bool:
        fleet, avoided = world.scheduler.state.fleet, request.admission.excluded_workers
        others = [
            w for w in fleet if w is not worker and w.status is WorkerStatus.UP and fits(request.admission, w.limits)
        ]
        held = POLICIES[world.config.policy](0).holds and any(w.index == request.wants for w in others)
        return held or (worker.worker_id in avoided and any(w.worker_id not in avoided for w in others))


def try_case(random: Random) -> str:
    idle = IdleTime()

    def check(world: World) -> None:
        world.scheduler.validate()
        idle.check(world)
        waiting = {name for name, ask in world.asks.items() if not ask.outcome and ask.worker is None}
        state = world.scheduler.state
        queued = {request.request_id for request in state.queue}
        assert queued <= waiting, "somebody is queued who has had an end, or a place"
        for worker in state.fleet:
            real = next(s.worker for s in world.slots if s.worker and s.worker.worker_id == worker.worker_id)
            assert worker.ledger.free_pages <= real.table.free_pages, "the books say more is free than is"

    config = SchedulerConfig(
        policy=random.choice(("cost", "cost", "cost", *POLICIES)),
        max_queued_requests=random.choice((5, 40, 4096)),
        max_wait_s=random.choice((60.0, 1e6, 1e6)),
        max_batch_wait_s=1e6,
        stall_timeout_s=random.choice((5.0, 60.0)),
        tenant_weights={tenant: random.choice(WEIGHTS) for tenant in "xyz"},
    )
    world = World(config, random, random.choice((0.0, 0.0, 0.05)), random.choice((0.5, 2.0)), check)
    accidents = _plan_workers(world, random)
    kind = _plan_requests(world, random)
    world.run(DRAINED_S)
    _end(world)
    return f"{kind}, {accidents}"


def _plan_workers(world: World, random: Random) -> str:
    for number in range(random.choice((1, 1, 2, 2, 3, 5))):
        slot = Slot(f"s{number}", _limits(random), Speed(random.choice((0.01, 0.02, 0.1)), random.choice((1e-5, 1e-4))))
        world.slots.append(slot)
        world.at(0.0, partial(world.expect, slot))
        world.at(random.choice((0.0, 0.0, 0.0, random.uniform(0.0, LOAD_S))), partial(world.come_up, slot))
    for _ in range(random.choice((0, 0, 1, 3))):
        slot, at_s = random.choice(world.slots), random.uniform(0.0, LOAD_S)
        accident = random.choice(("die", "die", "hang", "suspect", "drain", "lose"))
        world.at(at_s, partial(_befall, world, slot, accident, random.choice((0.0, 3.0, 60.0))))
        if accident in ("drain", "lose"):
            return "a worker goes"
    return "workers stay"


def _limits(random: Random) -> WorkerLimits:
    total_pages = random.choice(PAGES)
    context_tokens = PAGE_TOKENS * total_pages
    if random.random() < 0.2:
        context_tokens = max(context_tokens - random.randrange(400), 200)
    reserve_tokens = random.choice((0, 0, 0, 5, 300)) if total_pages > 2 else 0
    return replace(
        LIMITS,
        context_tokens=context_tokens,
        total_pages=total_pages,
        max_batch_size=random.choice(BATCHES),
        reserve_tokens=reserve_tokens,
    )


def _befall(world: World, slot: Slot, accident: str, lasting_s: float) -> None:
    worker = slot.worker
    if worker is None:
        return
    if accident == "die":
        world.die(slot, lasting_s)
    elif accident == "hang":
        worker.hangs_until_s = world.now_s + lasting_s
    elif accident == "suspect":
        worker.hangs_until_s = world.now_s + lasting_s
        world.handle(WorkerSuspected(worker.worker_id))
    elif accident == "drain":
        world.handle(WorkerDraining(worker.worker_id))
    else:
        slot.worker, slot.gone = None, True
        world.handle(WorkerLost(slot.name, "for good"))


def _plan_requests(world: World, random: Random) -> str:
    kind = random.choice(("alike", "mixed", "mixed", "large before small", "large batch"))
    count = random.choice((10, 40, 60))
    wholes = [
        min(s.limits.context_tokens, PAGE_TOKENS * s.limits.total_pages) - s.limits.reserve_tokens for s in world.slots
    ]
    spread_s = random.choice((0.0, 20.0, LOAD_S))
    usual = random.choice((100, 256, 1000))
    for number in range(count):
        at_s, priority = random.uniform(0.0, spread_s), random.choice(tuple(Priority))
        tokens = {"alike": usual, "mixed": random.choice((20, usual, *wholes, max(wholes) + 1))}.get(kind, 0)
        if kind == "large before small":
            large = number < count // 2
            tokens, priority = max(wholes) if large else min(usual, *wholes), Priority.DEFAULT
            at_s = 0.0 if large else max(at_s, 0.1)
        elif kind == "large batch":
            large = number % 8 == 0
            tokens, priority = (max(wholes), Priority.BATCH) if large else (min(usual, *wholes), priority)
        _plan_request(world, random, f"r{number}", at_s, max(tokens, 2), priority)
    for _ in range(random.choice((0, 2))):
        weights = {tenant: random.choice((*WEIGHTS, 0.0, 1e-300, float("nan"))) for tenant in "xy"}
        world.at(random.uniform(0.0, LOAD_S), partial(world.handle, TenantsWeighed(weights)))
    return kind


def _plan_request(world: World, random: Random, name: str, at_s: float, tokens: int, priority: Priority) -> None:
    prompt_tokens = random.randrange(1, tokens)
    family = random.choice(("", "", "p", "q"))
    pages = (prompt_tokens - 1) // PAGE_TOKENS if family else 0
    own_from = random.randrange(pages + 1)
    hashes = tuple(f"{family}{page}{name if page >= own_from else ''}".encode() for page in range(pages))
    asked = admission(
        name,
        prompt_tokens,
        tokens - prompt_tokens,
        page_hashes=hashes,
        priority=priority,
        tenant=random.choice("xyz"),
        timeout_s=random.choice((None, None, None, 0.5, 30.0)),
    )
    world.at(at_s, partial(world.submit, asked, random.randrange(min(asked.max_new_tokens, MOST_OUTPUT)) + 1))
    if random.random() < 0.1:
        world.at(at_s + random.uniform(0.0, 60.0), partial(_cancel, world, name))


def _cancel(world: World, name: str) -> None:
    if name in world.asks:
        world.cancel(name)


def _end(world: World) -> None:
    """Everybody had an end, nothing is left of anybody, and a replay does the same again."""
    for ask in world.asks.values():
        assert ask.outcome, f"{ask.admission.request_id} had no end"
    state = world.scheduler.state
    assert not state.requests
    assert not state.matchmaker.reserved, "a worker is kept for nobody"
    assert not any(request.state is not RequestState.QUEUED for request in state.queue)
    for worker in state.fleet:
        assert worker.ledger.free_pages == worker.limits.total_pages, "pages were lost"
    assert [actions for _, _, actions in replay(world.recorded)] == world.said, "a replay did something else"
