"""The thread round an engine: commands in, one batch of news per step out, and what failures cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.config import EngineConfig, SimulatedOptions
from actors.engines.base import EngineEvent, EngineJob
from actors.engines.simulated import SimulatedEngine, expected_tokens
from actors.errors import EngineFailure, FatalEngineError, InvalidRequest, ModelError
from actors.paging.hashes import page_hashes
from actors.results import FinishReason
from actors.worker.commands import Cancel, CancelStream, Inspect, Stop
from tests.worker.harness import PROMPT, WAIT_S, request


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
    assert (harness.engine.capacity().active_jobs, harness.engine.capacity().free_pages) == (0, 32)
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
    harness.submit(request(1), request(2, tokens=100_000), request(3))
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
    harness.send(CancelStream("gone"))
    ends = [*harness.until_finished(1, 2, front="gone"), *harness.until_finished(1, front="stays")]
    assert [end.reason for end in ends] == [FinishReason.CANCELLED, FinishReason.CANCELLED, FinishReason.LENGTH]


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(start: Any) -> None:
    harness = start(step_s=0.0, fail_at_step=3)
    harness.submit(request(1), request(2))
    for failed in harness.until_finished(1, 2):
        assert failed.reason is FinishReason.ERROR
        assert isinstance(failed.error, EngineFailure)
        assert "RuntimeError" in failed.error.message
    truth = harness.news[-1].truth
    assert truth is not None
    assert (truth.resident_pages, truth.running) == (frozenset(), ())
    harness.submit(request(3))
    (finished,) = harness.until_finished(3)
    assert finished.reason is FinishReason.LENGTH
    assert tuple(harness.tokens["front", 3]) == expected_tokens(PROMPT, 10)


class InterruptedEngine(SimulatedEngine):
    """Its first step fails, and somebody submits something while it is going on."""

    interrupt: Callable[[], None] | None = None

    def step(self) -> list[EngineEvent]:
        if self.interrupt is None:
            return super().step()
        interrupt, self.interrupt = self.interrupt, None
        interrupt()
        raise RuntimeError("the step failed")


def test_what_is_submitted_while_a_step_fails_is_not_lost_with_it(start: Any) -> None:
    engine = InterruptedEngine(EngineConfig(engine="simulated", simulated=SimulatedOptions(step_s=0.0)))
    harness = start(engine)
    engine.interrupt = lambda: harness.submit(request(2))
    harness.submit(request(1))
    failed, finished = harness.until_finished(1, 2)
    assert isinstance(failed.error, EngineFailure)
    assert (finished.reason, len(harness.tokens["front", 2])) == (FinishReason.LENGTH, 10)


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
    prompt = tuple(range(600))
    harness.submit(replace(request(1, prompt, 2), page_hashes=page_hashes(prompt)))
    harness.until_finished(1)
    known = {page for news in harness.news for page in news.pages_added}
    assert len(known) == 2
    harness.send(Inspect())
    news = harness.next()
    assert news.truth is not None
    assert (news.truth.resident_pages, news.truth.running, news.sample) == (known, (), None)


def test_inspection_tells_what_runs(start: Any) -> None:
    harness = start(step_s=0.001)
    harness.submit(request(1, tokens=5000))
    harness.next()
    harness.send(Inspect())
    while (truth := harness.next().truth) is None:
        pass
    (running,) = truth.running
    assert (running.admission.request_id, running.admission.attempt) == ("request-1", 1)
    assert running.admission.prompt_tokens == len(PROMPT)


def test_pages_are_told_only_when_they_may_have_changed(start: Any) -> None:
    harness = start(step_s=0.0)
    prompt = tuple(range(257))
    harness.submit(replace(request(1, prompt, tokens=20), page_hashes=page_hashes(prompt)))
    harness.until_finished(1)
    told = [news.pages_added for news in harness.news]
    assert told[0] == page_hashes(prompt)
    assert not any(told[1:])
    assert not any(news.pages_evicted for news in harness.news)


def test_an_idle_thread_waits_without_steps_and_stops_at_once(start: Any) -> None:
    harness = start(step_s=0.0)
    harness.submit(request(1, tokens=3))
    harness.until_finished(1)
    assert (harness.thread.steps, harness.thread.turn_began_at_s) == (3, None)
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
    eventually(lambda: harness.thread.turn_began_at_s is not None)
    assert harness.thread.turn_began_at_s <= time.monotonic()
    engine.go.set()
    harness.until_finished(1)
    assert harness.thread.turn_began_at_s is None
