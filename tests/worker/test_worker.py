"""The worker actor's class, on an event loop of its own: streams, reports, fencing, and what a leaving front costs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from actors.config import EngineConfig
from actors.engines.simulated import expected_tokens
from actors.errors import EngineFailure, ModelError
from actors.messages import Cancellation, Listening, LoadProgress, StepOutput, StepReport, WorkerReady
from actors.paging.hashes import page_hashes
from actors.results import FinishReason
from actors.worker.worker import Worker
from tests.worker.harness import PROMPT, request

WAIT_S = 20.0


@asynccontextmanager
async def running(**simulated: Any) -> AsyncIterator[Worker]:
    config = EngineConfig(
        engine="simulated", cache_tokens=8192, max_batch_size=8, simulated={"step_s": 0.001, **simulated}
    )
    async with asyncio.timeout(WAIT_S):
        worker = Worker("slot", config)
        yield worker
        await worker.close()


async def ready(worker: Worker) -> tuple[AsyncGenerator[Any, None], WorkerReady]:
    """The worker's reports, from the first one after it is ready."""
    reports = cast("AsyncGenerator[Any, None]", worker.reports())
    async for news in reports:
        if isinstance(news, WorkerReady):
            return reports, news
    raise AssertionError("the worker never became ready")


async def listen(worker: Worker, stream_id: str = "front/1") -> AsyncGenerator[StepOutput, None]:
    """A stream of outputs; the front is gone as soon as nobody holds it."""
    outputs = cast("AsyncGenerator[Any, None]", worker.outputs(stream_id))
    hello = await anext(outputs)
    assert isinstance(hello, Listening), "the first message says who listens"
    assert hello.worker_id.startswith("slot#")
    return outputs


async def collect(outputs: AsyncIterator[StepOutput], *tickets: int) -> dict[int, tuple[tuple[int, ...], FinishReason]]:
    """Tokens and the reason of the end of each ticket."""
    tokens: dict[int, list[int]] = {ticket: [] for ticket in tickets}
    ends: dict[int, FinishReason] = {}
    while len(ends) < len(tickets):
        output = await anext(outputs)
        for ticket, token_ids in zip(output.tickets, output.token_ids, strict=True):
            tokens[ticket] += token_ids
        ends |= {ticket: finished.reason for ticket, finished in output.finished}
    return {ticket: (tuple(tokens[ticket]), ends[ticket]) for ticket in tickets}


async def test_a_stream_carries_all_requests_of_a_front() -> None:
    async with running() as worker:
        await ready(worker)
        outputs = await listen(worker)
        asked = tuple(request(ticket, (*PROMPT, ticket)) for ticket in range(5))
        assert await worker.take_commands("front/1", asked)
        made = await collect(outputs, *range(5))
        for ticket, (tokens, reason) in made.items():
            assert (tokens, reason) == (expected_tokens((*PROMPT, ticket), 10), FinishReason.LENGTH)


async def test_a_slow_reader_gets_joined_steps_and_loses_nothing() -> None:
    async with running() as worker:
        reports, _ = await ready(worker)
        outputs = await listen(worker)
        await worker.take_commands("front/1", (request(1, tokens=200),))
        while not (await anext(reports)).finished:
            pass
        output = await anext(outputs)
        assert tuple(token for ids in output.token_ids for token in ids) == expected_tokens(PROMPT, 200)
        assert [ticket for ticket, _ in output.finished] == [1]


async def test_commands_for_a_stream_that_is_not_open_are_refused() -> None:
    async with running() as worker:
        await ready(worker)
        outputs = await listen(worker, "front/2")
        for stream_id in ("front/1", "stranger/2", "front"):
            assert not await worker.take_commands(stream_id, (request(1),))
        assert (await worker.heartbeat()).steps == 0
        await outputs.aclose()


async def test_a_newer_stream_of_a_front_ends_the_one_before_with_its_requests() -> None:
    async with running() as worker:
        await ready(worker)
        old = await listen(worker, "front/1")
        other = await listen(worker, "frontier/1")
        await worker.take_commands("front/1", (replace(request(1, tokens=8000), whole=True),))
        await worker.take_commands("frontier/1", (request(2, (*PROMPT, 2)),))
        new = await listen(worker, "front/2")
        assert [output async for output in old if output.tickets] == []
        assert (await collect(other, 2))[2][1] is FinishReason.LENGTH
        await worker.take_commands("front/2", (request(3, (*PROMPT, 3)),))
        assert (await collect(new, 3))[3] == (expected_tokens((*PROMPT, 3), 10), FinishReason.LENGTH)
        assert (await worker.debug_state())["streams"] == 2


async def test_a_stream_that_arrives_after_a_newer_one_of_its_front_ends_at_once() -> None:
    """Ray may deliver two calls in any order."""
    async with running() as worker:
        await ready(worker)
        new = await listen(worker, "front/10")
        assert [message async for message in worker.outputs("front/9")] == []
        await worker.take_commands("front/10", (request(1),))
        assert (await collect(new, 1))[1][1] is FinishReason.LENGTH


async def test_commands_take_effect_in_their_order() -> None:
    """A cancellation never comes before what it cancels: they travel together, and one after the other."""
    async with running() as worker:
        reports, _ = await ready(worker)
        outputs = await listen(worker)
        await worker.take_commands("front/1", (request(1, tokens=8000), Cancellation(1), request(2, (*PROMPT, 2))))
        made = await collect(outputs, 1, 2)
        assert (made[1][1], made[2][1]) == (FinishReason.CANCELLED, FinishReason.LENGTH)
        await reports.aclose()


async def test_a_front_whose_stream_closes_has_its_requests_cancelled() -> None:
    async with running() as worker:
        reports, _ = await ready(worker)
        outputs, others = await listen(worker, "gone/1"), await listen(worker, "stays/1")
        await worker.take_commands("gone/1", (request(1, tokens=5000), request(2, tokens=5000)))
        await worker.take_commands("stays/1", (request(3, (*PROMPT, 3), tokens=50),))
        await anext(outputs)
        await outputs.aclose()
        finished: set[str] = set()
        while finished != {"request-1", "request-2", "request-3"}:
            report = await anext(reports)
            finished |= {one.request_id for one in report.finished}
        assert (await collect(others, 3))[3] == (expected_tokens((*PROMPT, 3), 50), FinishReason.LENGTH)
        await worker.resync()
        while (report := await anext(reports)).running is None:
            pass
        assert report.running == ()


async def test_cancelling_a_ticket_ends_it() -> None:
    async with running() as worker:
        await ready(worker)
        outputs = await listen(worker)
        await worker.take_commands("front/1", (request(1, tokens=5000), request(2, (*PROMPT, 2))))
        await worker.take_commands("front/1", (Cancellation(1), Cancellation(77)))
        made = await collect(outputs, 1, 2)
        assert (made[1][1], made[2][1]) == (FinishReason.CANCELLED, FinishReason.LENGTH)


async def test_reports_begin_with_progress_and_follow_the_work() -> None:
    async with running(load_s=0.05) as worker:
        reports = cast("AsyncGenerator[Any, None]", worker.reports())
        assert isinstance(await anext(reports), Listening)
        news: Any = await anext(reports)
        assert isinstance(news, LoadProgress)
        while not isinstance(news, WorkerReady):
            news = await anext(reports)
        assert (news.resident_pages, news.sequence, news.running) == (frozenset(), 1, ())
        outputs = await listen(worker)
        prompt = tuple(range(600))
        await worker.take_commands("front/1", (replace(request(1, prompt, 5), page_hashes=page_hashes(prompt)),))
        pages: set[bytes] = set()
        seen: list[StepReport] = []
        while not any(report.finished for report in seen):
            report = await anext(reports)
            pages = (pages | set(report.pages_added)) - set(report.pages_evicted)
            seen.append(report)
        assert [report.sequence for report in seen] == list(range(2, len(seen) + 2))
        assert pages == set(page_hashes(prompt))
        assert sum(report.generated_tokens for report in seen) == 5
        await worker.resync()
        report = await anext(reports)
        assert (report.full, report.running, set(report.pages_added)) == (True, (), pages)
        assert (await collect(outputs, 1))[1][1] is FinishReason.LENGTH


async def test_a_new_listener_hears_what_runs_already() -> None:
    async with running() as worker:
        reports, news = await ready(worker)
        outputs = await listen(worker)
        await worker.take_commands("front/1", (request(1, tokens=5000),))
        await anext(reports)
        await reports.aclose()
        _, again = await ready(worker)
        assert again.worker_id == news.worker_id
        (attempt,) = again.running
        assert (attempt.admission.request_id, attempt.admission.prompt_tokens) == ("request-1", len(PROMPT))
        await worker.take_commands("front/1", (Cancellation(1),))
        assert (await collect(outputs, 1))[1][1] is FinishReason.CANCELLED


async def test_a_heartbeat_tells_steps_and_process() -> None:
    async with running() as worker:
        _, news = await ready(worker)
        outputs = await listen(worker)
        await worker.take_commands("front/1", (request(1),))
        await collect(outputs, 1)
        beat = await worker.heartbeat()
        assert (beat.worker_id, beat.steps, beat.pid) == (news.worker_id, 10, os.getpid())


async def test_a_worker_whose_engine_has_ended_takes_nothing_up_any_more() -> None:
    """A front that is quick would lose the request on its way round a second time, to a worker that is dying."""
    async with running() as worker:
        await ready(worker)
        outputs = await listen(worker, "front/1")
        await worker.close()
        assert not await worker.take_commands("front/1", (request(1),))
        assert [message async for message in worker.outputs("front/2")] == []
        await outputs.aclose()


async def test_reports_end_when_the_worker_is_closed() -> None:
    async with running() as worker:
        reports, _ = await ready(worker)
        await worker.close()
        assert [report async for report in reports] == []


async def test_a_failed_load_is_told_to_whoever_listens() -> None:
    async with asyncio.timeout(WAIT_S):
        worker = Worker("slot", EngineConfig(engine="simulated", simulated={"fail_load": True}))
        with pytest.raises(ModelError):
            async for _ in worker.reports():
                pass
        with pytest.raises(ModelError):
            async for _ in worker.reports():
                pass


async def test_an_engine_starts_when_a_listener_says_so_and_until_then_the_worker_answers() -> None:
    async with running() as worker:
        paused = cast("AsyncGenerator[Any, None]", worker.reports(start_after_s=1000.0))
        hello = await anext(paused)
        outputs = await listen(worker)
        assert not await worker.take_commands("front/1", (request(1),))
        await worker.resync()
        beat = await worker.heartbeat()
        assert (beat.worker_id, beat.steps, beat.turn_age_s) == (hello.worker_id, 0, 0.0)
        await outputs.aclose()
        await paused.aclose()
        _, news = await ready(worker)  # a listener that knows of no pause
        assert news.worker_id == hello.worker_id


async def test_an_engine_starts_after_its_pause_and_only_once() -> None:
    async with running() as worker:
        paused = cast("AsyncGenerator[Any, None]", worker.reports(start_after_s=0.05))
        async for news in paused:
            if isinstance(news, WorkerReady):
                break
        await worker.start()
        _, again = await ready(worker)
        assert again.sequence == 2, "it is the same engine, which tells the whole truth once more"


async def test_a_worker_that_waits_to_start_can_be_closed() -> None:
    async with asyncio.timeout(WAIT_S):
        worker = Worker("slot", EngineConfig(engine="simulated"))
        reports = cast("AsyncGenerator[Any, None]", worker.reports(start_after_s=0.01))
        await anext(reports)
        await worker.close()
        assert [news async for news in reports] == []
        await worker.start()
        await asyncio.sleep(0.02)
        assert (await worker.heartbeat()).steps == 0


async def test_an_engine_for_which_the_machine_has_no_process_left_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no process is left")

    monkeypatch.setattr("actors.worker.worker.start_engine", fail)
    async with asyncio.timeout(WAIT_S):
        worker = Worker("slot", EngineConfig(engine="simulated"))
        with pytest.raises(EngineFailure, match="no process is left"):
            async for _ in worker.reports():
                pass
