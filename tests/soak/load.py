"""Users: each does one thing after another, chosen at random, and has every end judged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import ray

from actors import ExlpoolError, GenerationResult, Pool
from actors.request.options import request_options
from actors.request.prompt import PromptEncoder
from tests.soak.checker import Answer, Checker
from tests.soak.fronts import FrontActors, FrontSlots, Lease, current_answer
from tests.soak.plan import SoakPlan
from tests.soak.questions import Question, QuestionMaker

UNWIND_S = 20.0
"""For what was cancelled because it had no end."""
BURST = 24
BATCH, BATCH_WINDOW, BATCH_TOKENS = 40, 8, 8
Way = Callable[[Question, Answer], Coroutine[Any, Any, None]]
"""Asks, and fills the answer in as it comes."""


@dataclass(slots=True)
class Surroundings:
    """What all users share."""

    plan: SoakPlan
    pool: Pool
    dispatcher: Any
    encoder: PromptEncoder
    checker: Checker
    slots: FrontSlots
    actors: FrontActors
    stop: asyncio.Event


class User:
    """Asks until the run stops. Nothing that it asks has no end: what has not ended in time is told, and cancelled."""

    def __init__(self, name: str, around: Surroundings, tasks: asyncio.TaskGroup) -> None:
        self._around, self._tasks = around, tasks
        self._rng = around.plan.rng(name)
        self._make = QuestionMaker(self._rng, around.encoder)
        self._acts: dict[Callable[[], Awaitable[None]], int] = {
            self._stream: 26,
            self._whole: 14,
            self._cancelled_stream: 14,
            self._cancelled_whole: 7,
            self._time_limit: 8,
            self._wrong: 7,
            self._remote: 9,
            self._cancelled_remote: 4,
            self._script_stream: 6,
            self._burst: 2,
            self._batch: 2,
        }

    async def live(self) -> None:
        """One act after another."""
        acts, odds = list(self._acts), list(self._acts.values())
        while not self._around.stop.is_set():
            await self._rng.choices(acts, odds)[0]()
            await asyncio.sleep(self._rng.expovariate(1 / 0.1))

    # What a user does.

    async def _stream(self) -> None:
        await self._ask("stream", self._make.right(), self._by_stream)

    async def _whole(self) -> None:
        await self._ask("whole", self._make.right(), self._by_front)

    async def _cancelled_stream(self) -> None:
        await self._ask("cancelled stream", self._make.right(), self._by_stream, cancel_after_s=self._moment_s())

    async def _cancelled_whole(self) -> None:
        await self._ask("cancelled whole", self._make.right(), self._by_front, cancel_after_s=self._moment_s())

    async def _time_limit(self) -> None:
        question = self._make.right(timeout_s=10 ** self._rng.uniform(-2.5, 0.5))
        await self._ask("time limit", question, self._rng.choice((self._by_stream, self._by_front, self._by_actor)))

    async def _wrong(self) -> None:
        way = self._rng.choice((self._by_stream, self._by_front, self._by_actor))
        await self._ask("wrong", self._make.wrong(), way)

    async def _remote(self) -> None:
        way = self._by_pool if self._rng.random() < 0.5 else self._by_actor
        await self._ask("remote", self._make.right(), way)

    async def _cancelled_remote(self) -> None:
        await self._ask("cancelled remote", self._make.right(), self._by_actor, cancel_after_s=self._moment_s())

    async def _script_stream(self) -> None:
        way = self._by_async_for if self._rng.random() < 0.6 else self._by_plain_for
        await self._ask("script stream", self._make.right(), way)

    async def _burst(self) -> None:
        """More at once than there are slots: they wait in the dispatcher's queue."""
        async with asyncio.TaskGroup() as burst:
            for _ in range(BURST):
                burst.create_task(self._ask("burst", self._make.right(short=True), self._by_front))

    async def _batch(self) -> None:
        """`pool.map`, on a thread as in a plain script."""
        prompts = self._make.prompts(BATCH)
        outcomes: list[GenerationResult | ExlpoolError] = []

        def run() -> None:
            pool = self._around.pool
            outcomes.extend(
                pool.map(prompts, window=BATCH_WINDOW, return_errors=True, max_new_tokens=BATCH_TOKENS, temperature=0.0)
            )

        answer = Answer()
        task = self._tasks.create_task(_note(answer, asyncio.to_thread(run)))
        if not await self._wait_for_end("batch", answer, task):
            return
        if answer.error is not None or len(outcomes) != BATCH:
            self._around.checker.fail(f"a batch of {BATCH} gave {len(outcomes)} outcomes: {answer.error!r}")
        for prompt, outcome in zip(prompts, outcomes, strict=False):
            self._judge_outcome(prompt, outcome)

    def _judge_outcome(self, prompt: Any, outcome: GenerationResult | ExlpoolError) -> None:
        answer = Answer()
        if isinstance(outcome, GenerationResult):
            answer.take_result(outcome)
        else:
            answer.error = outcome
        self._around.checker.judge("batch", self._make.greedy(prompt, BATCH_TOKENS), answer)

    # Ways to ask.

    async def _by_stream(self, question: Question, answer: Answer) -> None:
        async with self._leased(answer) as lease:
            stream = lease.front.stream(question.prompt, request_options(**question.options))
            try:
                async for delta in stream:
                    _take_delta(answer, delta)
            finally:
                await stream.aclose()

    async def _by_front(self, question: Question, answer: Answer) -> None:
        async with self._leased(answer) as lease:
            answer.take_result(await lease.front.generate(question.prompt, request_options(**question.options)))

    async def _by_actor(self, question: Question, answer: Answer) -> None:
        lease = self._rng.choice(self._around.actors.leases)
        lease.use(answer)
        try:
            await _by_reference(lease.front.generate.remote(question.prompt, **question.options), answer)
        finally:
            lease.leave(answer)

    async def _by_pool(self, question: Question, answer: Answer) -> None:
        await _by_reference(self._around.pool.generate.remote(question.prompt, **question.options), answer)

    async def _by_async_for(self, question: Question, answer: Answer) -> None:
        async for delta in self._around.pool.stream(question.prompt, **question.options):
            _take_delta(answer, delta)

    async def _by_plain_for(self, question: Question, answer: Answer) -> None:
        def read() -> None:
            for delta in self._around.pool.stream(question.prompt, **question.options):
                _take_delta(answer, delta)

        await asyncio.to_thread(read)

    def _leased(self, answer: Answer) -> _Leased:
        return _Leased(self._around.slots, answer)

    def _moment_s(self) -> float:
        """When somebody changes their mind: in the queue, before the first token, in mid-stream, or too late."""
        return self._rng.choice((0.0, self._rng.uniform(0.0, 0.1), self._rng.expovariate(1 / 1.0)))

    # Asking, with an end that is certain.

    async def _ask(self, kind: str, question: Question, way: Way, *, cancel_after_s: float | None = None) -> None:
        answer = Answer(of_batch=question.options.get("priority") == "batch")
        task = self._tasks.create_task(_note(answer, way(question, answer)))
        if cancel_after_s is not None:
            await asyncio.wait({task}, timeout=cancel_after_s)
            answer.cancelled = not task.done()
            task.cancel()
        if await self._wait_for_end(kind, answer, task):
            self._around.checker.judge(kind, question, answer)

    async def _wait_for_end(self, kind: str, answer: Answer, task: asyncio.Task[None]) -> bool:
        """Wait for the end of a request. One that does not come is told with all that is known of the request."""
        plan = self._around.plan
        limit_s = plan.batch_ends_within_s if answer.of_batch else plan.end_within_s
        await asyncio.wait({task}, timeout=limit_s)
        if task.done():
            return True
        known = await _what_is_known(self._around, answer)
        self._around.checker.fail(f"{kind} {answer.request_id} HAS NO END after {limit_s:g} s. {known}")
        task.cancel()
        await asyncio.wait({task}, timeout=UNWIND_S)
        if not task.done():
            self._around.checker.fail(f"{kind} {answer.request_id} cannot even be cancelled: {task!r}")
        return False


class _Leased:
    """An open front for one request."""

    def __init__(self, slots: FrontSlots, answer: Answer) -> None:
        self._slots, self._answer = slots, answer
        self._lease: Lease | None = None

    async def __aenter__(self) -> Lease:
        while (lease := self._slots.pick()) is None:
            await asyncio.sleep(0.05)  # a poll, bounded by the limit on every request
        self._lease = lease
        lease.use(self._answer)
        return lease

    async def __aexit__(self, *_: object) -> None:
        assert self._lease is not None
        self._lease.leave(self._answer)


def _take_delta(answer: Answer, delta: Any) -> None:
    answer.texts.append(delta.text)
    answer.token_ids += delta.token_ids
    answer.reason, answer.usage = delta.finish_reason, delta.usage


async def _by_reference(reference: Any, answer: Answer) -> None:
    try:
        answer.take_result(await reference)
    except asyncio.CancelledError:
        ray.cancel(reference)
        raise


async def _note(answer: Answer, work: Coroutine[Any, Any, None]) -> None:
    """Note how a request ended instead of raising it: a failure must not end the load."""
    current_answer.set(answer)
    try:
        await work
    except Exception as error:  # noqa: BLE001 - judged by the checker, which knows what may be
        answer.error = error


async def _what_is_known(around: Surroundings, answer: Answer) -> str:
    """The story of a request that has no end, and the state of all that could hold it."""
    lines = [f"{len(answer.token_ids)} tokens so far."]
    lines += [f"front: {lease.front!r}" for lease in around.slots.leases if lease and id(answer) in lease.using]
    try:
        async with asyncio.timeout(10.0):
            lines += ["story:", *await around.dispatcher.story.remote(answer.request_id)]
            lines.append(f"statistics: {await around.dispatcher.statistics.remote()}")
    except Exception as error:  # noqa: BLE001 - a dispatcher that does not answer is part of what is known
        lines.append(f"the dispatcher does not tell: {error!r}")
    return "\n    ".join(lines)
