"""The thread round an engine: commands in, one batch of news per step out, and what failures cost."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from actors.config import EngineConfig
from actors.engines.base import EngineEvent, EngineJob
from actors.engines.simulated import SimulatedEngine, expected_tokens
from actors.errors import EngineFailure, FatalEngineError, InvalidRequest, ModelError
from actors.messages import Finished, GenerationRequest, LoadProgress, WorkerLimits
from actors.paging.hashes import page_hashes
from actors.results import FinishReason
from actors.sampling import sampling_params
from actors.worker.engine_thread import (
    Cancel,
    CancelFront,
    Command,
    EngineThread,
    Inspect,
    StepNews,
    Stop,
    Submit,
)

WAIT_S = 20.0
PROMPT = tuple(range(10, 40))


def request(ticket: int, prompt: tuple[int, ...] = PROMPT, tokens: int = 10, **params: Any) -> GenerationRequest:
    return GenerationRequest(
        ticket=ticket,
        request_id=f"request-{ticket}",
        attempt=1,
        token_ids=prompt,
        page_hashes=page_hashes(prompt),
        max_new_tokens=tokens,
        seed=0,
        params=sampling_params(**{"temperature": 0.0, **params}),
    )


class Harness:
    """A running thread, and what it told, by front and ticket."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self.progress: list[LoadProgress] = []
        self.limits: WorkerLimits | None = None
        self.news: list[StepNews] = []
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.finished: dict[tuple[str, int], Finished] = {}
        self._arrived: queue.SimpleQueue[StepNews] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self.thread = EngineThread(
            lambda: engine,
            on_progress=self.progress.append,
            on_loaded=self._loaded,
            on_step=self._arrived.put,
            on_end=self._ends.put,
        )
        self.thread.start()

    def _loaded(self, limits: WorkerLimits) -> None:
        self.limits = limits

    def send(self, *commands: Command) -> None:
        for command in commands:
            self.thread.send(command)

    def submit(self, *requests: GenerationRequest, front: str = "front") -> None:
        self.send(*(Submit(front, one) for one in requests))

    def next(self) -> StepNews:
        """The news of one step, taken in."""
        news = self._arrived.get(timeout=WAIT_S)
        self.news.append(news)
        for front, columns in news.outputs.items():
            output = columns.message()
            for ticket, token_ids in zip(output.tickets, output.token_ids, strict=True):
                assert (front, ticket) not in self.finished, "output after the end"
                self.tokens.setdefault((front, ticket), []).extend(token_ids)
            for ticket, finished in output.finished:
                self.finished[front, ticket] = finished
        return news

    def until_finished(self, *tickets: int, front: str = "front") -> list[Finished]:
        while any((front, ticket) not in self.finished for ticket in tickets):
            self.next()
        return [self.finished[front, ticket] for ticket in tickets]

    def end(self) -> Exception | None:
        failure = self._ends.get(timeout=WAIT_S)
        assert self.thread.join(WAIT_S)
        return failure


@pytest.fixture
def start() -> Iterator[Any]:
    running: list[Harness] = []

    def make(engine: SimulatedEngine | None = None, **simulated: Any) -> Harness:
        config = EngineConfig(engine="simulated", cache_tokens=8192, max_batch_size=8, simulated=simulated)
        running.append(Harness(engine or SimulatedEngine(config)))
        return running[-1]

    yield make
    for one in running:
        one.thread.send(Stop())
        assert one.thread.join(WAIT_S)


def test_a_request_comes_back_in_steps_and_with_its_end(start: Any) -> None:
    harness = start(step_s=0.001)
    harness.submit(request(7))
    (finished,) = harness.until_finished(7)
    assert tuple(harness.tokens["front", 7]) == expected_tokens(PROMPT, 10)
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == (FinishReason.LENGTH, 30, 10)
    assert finished.queue_s >= 0
    assert finished.generate_s > 0
    assert len(harness.news) == 10
    assert [news.generated_tokens for news in harness.news] == [1] * 10
    first, last = harness.news[0], harness.news[-1]
    assert [(one.request_id, one.attempt) for one in first.started] == [("request-7", 1)]
    assert first.first_tokens == [("request-7", 1)]
    assert [(one.request_id, one.completion_tokens) for one in last.finished] == [("request-7", 10)]
    assert all(news.sample is not None and news.sample.duration_s > 0 for news in harness.news)
    assert (first.active_jobs, last.active_jobs, last.free_pages) == (1, 0, 32)
    assert harness.limits is not None
    assert harness.progress[-1].done == harness.progress[-1].total


def test_each_front_hears_its_own_and_nothing_else(start: Any) -> None:
    harness = start(step_s=0.0)
    harness.submit(request(1), request(2, (*PROMPT, 5)), front="a")
    harness.submit(request(1, (*PROMPT, 6)), front="b")
    harness.until_finished(1, 2, front="a")
    harness.until_finished(1, front="b")
    assert tuple(harness.tokens["a", 2]) == expected_tokens((*PROMPT, 5), 10)
    assert tuple(harness.tokens["b", 1]) == expected_tokens((*PROMPT, 6), 10)
    assert set(harness.tokens) == {("a", 1), ("a", 2), ("b", 1)}


def test_a_refused_request_fails_alone_with_its_own_error(start: Any) -> None:
    harness = start(step_s=0.0)
    harness.submit(request(1), request(2, top_k=5), request(3))
    good, refused, other = harness.until_finished(1, 2, 3)
    assert refused.reason is FinishReason.ERROR
    assert isinstance(refused.error, InvalidRequest)
    assert (good.reason, other.reason) == (FinishReason.LENGTH, FinishReason.LENGTH)


class _Stumbles(SimulatedEngine):
    """Fails in an unforeseen way on a prompt that begins with 11."""

    def submit(self, job: EngineJob) -> None:
        if job.token_ids[0] == 11:
            raise ZeroDivisionError("nobody foresaw this")
        super().submit(job)


def test_a_request_that_trips_the_engine_up_fails_alone(start: Any) -> None:
    harness = start(_Stumbles(EngineConfig(engine="simulated", max_batch_size=8)))
    harness.submit(request(1), request(2, (11, 12)), request(3, (*PROMPT, 9)))
    harness.until_finished(1, 2, 3)
    error = harness.finished["front", 2].error
    assert isinstance(error, EngineFailure)
    assert "nobody foresaw this" in error.message
    assert {harness.finished["front", ticket].reason for ticket in (1, 3)} == {FinishReason.LENGTH}


def test_cancelling_ends_one_request(start: Any) -> None:
    harness = start(step_s=0.001)
    harness.submit(request(1, tokens=5000), request(2, tokens=20))
    harness.next()
    harness.send(Cancel("front", 1), Cancel("front", 99), Cancel("other", 2))
    cancelled, other = harness.until_finished(1, 2)
    assert (cancelled.reason, other.reason) == (FinishReason.CANCELLED, FinishReason.LENGTH)


def test_a_front_that_is_gone_takes_its_requests_along(start: Any) -> None:
    harness = start(step_s=0.001)
    harness.submit(request(1, tokens=5000), request(2, tokens=5000), front="gone")
    harness.submit(request(1, tokens=20), front="stays")
    harness.next()
    harness.send(CancelFront("gone"))
    ends = [*harness.until_finished(1, 2, front="gone"), *harness.until_finished(1, front="stays")]
    assert [end.reason for end in ends] == [FinishReason.CANCELLED, FinishReason.CANCELLED, FinishReason.LENGTH]


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(start: Any) -> None:
    harness = start(step_s=0.0, fail_at_step=3)
    harness.submit(request(1), request(2))
    for failed in harness.until_finished(1, 2):
        assert failed.reason is FinishReason.ERROR
        assert isinstance(failed.error, EngineFailure)
        assert "RuntimeError" in failed.error.message
    assert harness.news[-1].full
    assert harness.news[-1].resident_pages == frozenset()
    harness.submit(request(3))
    (finished,) = harness.until_finished(3)
    assert finished.reason is FinishReason.LENGTH
    assert tuple(harness.tokens["front", 3]) == expected_tokens(PROMPT, 10)


class FatalEngine(SimulatedEngine):
    def step(self) -> list[EngineEvent]:
        raise FatalEngineError("the context is poisoned")


def test_an_engine_beyond_repair_ends_the_thread(start: Any) -> None:
    harness = start(FatalEngine(EngineConfig(engine="simulated")))
    harness.submit(request(1))
    failure = harness.end()
    assert isinstance(failure, FatalEngineError)


def test_a_failed_load_ends_the_thread_with_its_error(start: Any) -> None:
    harness = start(fail_load=True)
    assert isinstance(harness.end(), ModelError)
    assert harness.limits is None


def test_inspection_tells_all_resident_pages(start: Any) -> None:
    harness = start(step_s=0.0)
    harness.submit(request(1, tuple(range(600)), 2))
    harness.until_finished(1)
    known = {name for news in harness.news for name in news.pages_added}
    assert known == set(page_hashes(range(600)))
    harness.send(Inspect())
    news = harness.next()
    assert (news.full, news.resident_pages, news.sample) == (True, known, None)


def test_a_page_is_told_in_the_step_that_completes_it(start: Any) -> None:
    harness = start(step_s=0.0)
    harness.submit(request(1, tuple(range(250)), tokens=20))
    harness.until_finished(1)
    (told,) = [news for news in harness.news if news.pages_added or news.pages_evicted]
    assert (len(told.pages_added), told.pages_evicted) == (1, ())
    assert told is not harness.news[-1]


def test_an_idle_thread_waits_without_steps_and_stops_at_once(start: Any) -> None:
    harness = start(step_s=0.0)
    harness.submit(request(1, tokens=3))
    harness.until_finished(1)
    assert (harness.thread.steps, harness.thread.step_started_at_s) == (3, None)
    harness.send(Stop())
    assert harness.end() is None
    with pytest.raises(EngineFailure):
        harness.engine.submit(None)


class StuckEngine(SimulatedEngine):
    """A step that lasts until it is let go."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self.go = threading.Event()

    def step(self) -> list[EngineEvent]:
        self.go.wait(WAIT_S)
        return super().step()


def test_a_step_that_goes_on_can_be_seen_from_outside(start: Any, eventually: Any) -> None:
    engine = StuckEngine(EngineConfig(engine="simulated", simulated={"step_s": 0.0}))
    harness = start(engine)
    harness.submit(request(1, tokens=1))
    eventually(lambda: harness.thread.step_started_at_s is not None)
    assert harness.thread.step_started_at_s <= time.monotonic()
    engine.go.set()
    harness.until_finished(1)
    assert harness.thread.step_started_at_s is None
