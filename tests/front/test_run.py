"""A request in its front: its time limit, cancellations that come together with a result, and its attempts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from actors.errors import DeadlineExceeded, EngineFailure, NoHealthyWorker, WorkerDied
from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.front.run import MAX_UNSENT, Run
from actors.front.suspicion import CLEARED_S, MAX_DEATHS_IN_ALL, Suspicion, endangered
from actors.messages import Finished
from actors.paging.hashes import page_hashes
from actors.request.options import request_options
from actors.request.prepare import PreparedRequest
from actors.results import FinishReason, Usage


def run(
    timeout_s: float | None = None, token_ids: tuple[int, ...] = (1, 2, 3), max_new_tokens: int = 4, **state: Any
) -> Run:
    options = request_options(timeout_s=timeout_s)
    request = PreparedRequest(
        request_id="r",
        token_ids=token_ids,
        page_hashes=page_hashes(token_ids),
        max_new_tokens=max_new_tokens,
        seed=0,
        params=options.params,
        options=options,
    )
    now_s = time.monotonic()
    return Run(request, now_s, None if timeout_s is None else now_s + timeout_s, **state)


@pytest.mark.parametrize("timeout_s", [None, 30.0])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_a_caller_that_goes_as_its_token_comes_is_not_forgotten(timeout_s: float | None, turns: int) -> None:
    output = AttemptOutput("w#1", whole=False)

    async def read_for_ever() -> None:
        while True:
            await run(timeout_s).within(output.take())

    async with asyncio.timeout(10):
        reader = asyncio.get_running_loop().create_task(read_for_ever())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        output.put("a", (1,), ())
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled(), "the cancellation was swallowed"


async def test_a_time_limit_that_is_over_is_an_error_of_its_own() -> None:
    with pytest.raises(DeadlineExceeded):
        await run(0.01).within(AttemptOutput("w#1", whole=False).take())


async def test_a_result_within_the_limit_is_passed_on() -> None:
    output = AttemptOutput("w#1", whole=True)
    output.finish(Finished(reason=FinishReason.STOP, prompt_tokens=1, completion_tokens=0))
    *_, finished = await run(30.0).within(output.take())
    assert finished is not None


TAKEN_UP = AttemptLost("gone", taken_up=True)
UNSENT = AttemptLost("gone before it could be sent")


def test_what_was_lost_is_tried_once_more_and_then_taken_for_the_cause() -> None:
    for error, final in ((TAKEN_UP, WorkerDied), (EngineFailure("broken"), EngineFailure)):
        tried = run()
        assert tried.pause_after(error) == 0.0
        with pytest.raises(final) as caught:
            tried.pause_after(error)
        assert caught.value.status == 500
        assert caught.value.retry_after_s is None, "the request itself may be the cause"


def test_what_goes_on_well_elsewhere_was_not_the_cause() -> None:
    judged = Suspicion()
    for _ in range(MAX_DEATHS_IN_ALL - 1):
        judged.note_death(CLEARED_S)
        assert not judged.certain
    judged.note_death(CLEARED_S)
    assert judged.certain, "it has taken down more than any innocent one is likely to"


def test_a_short_life_elsewhere_clears_nobody() -> None:
    judged = Suspicion()
    judged.note_death(60.0)
    judged.note_death(CLEARED_S / 2)
    assert judged.certain


@pytest.mark.parametrize(
    ("lost_id", "expected"),
    [("a", {"a", "b"}), ("c", {"c"}), ("gone", {"gone"})],
)
def test_the_workers_of_a_node_may_all_be_about_to_die(lost_id: str, expected: set[str]) -> None:
    assert endangered(lost_id, {"a": "n", "b": "n", "c": "m"}) == expected


def test_a_pool_on_one_node_has_no_safer_place() -> None:
    assert endangered("a", {"a": "n", "b": "n"}) == {"a"}
    assert endangered("a", {}) == {"a"}


def test_attempts_that_no_worker_had_are_no_deaths_under_the_request() -> None:
    tried = run()
    tried.pause_after(TAKEN_UP)
    for _ in range(1, MAX_UNSENT):
        assert tried.pause_after(UNSENT) > 0.0
    with pytest.raises(NoHealthyWorker, match="No worker could be reached") as caught:
        tried.pause_after(UNSENT)
    assert caught.value.retry_after_s is not None
    with pytest.raises(WorkerDied, match="2 attempts of this request were lost while a worker had it"):
        tried.pause_after(TAKEN_UP)


PROMPT = tuple(range(600))


def test_the_next_attempt_goes_on_behind_what_has_come() -> None:
    going = run(token_ids=PROMPT, max_new_tokens=300)
    going.begin_attempt()
    assert (going.admission().prompt_tokens, going.admission().max_new_tokens) == (600, 300)
    going.note_piece(tuple(range(200)))
    going.note_piece(())
    going.begin_attempt()
    sequence = (*PROMPT, *range(200))
    admission, request = going.admission(), going.generation_request(7, whole=False)
    assert (admission.attempt, admission.prompt_tokens, admission.max_new_tokens) == (2, 800, 100)
    assert admission.page_hashes == page_hashes(sequence)
    assert (request.ticket, request.attempt, request.whole) == (7, 2, False)
    assert (request.token_ids, request.resumed_tokens, request.max_new_tokens) == (sequence, 200, 100)
    assert request.page_hashes == page_hashes(sequence)


def test_a_token_that_was_made_twice_is_counted_once_and_the_prompt_stays_the_prompt() -> None:
    going = run(token_ids=PROMPT, max_new_tokens=300)
    going.begin_attempt()
    going.note_piece((7, 8))
    going.begin_attempt()
    going.note_piece((9,))
    end = Finished(reason=FinishReason.STOP, prompt_tokens=602, completion_tokens=2, cached_tokens=601)
    result = going.result("text", (), end)
    assert result.token_ids == (7, 8, 9)
    assert result.usage == Usage(prompt_tokens=600, completion_tokens=4, cached_tokens=600)
    assert result.attempts == 2


def test_the_first_token_came_when_it_came() -> None:
    going = run()
    going.granted_at_s = going.started_at_s
    going.begin_attempt()
    going.note_piece((7,))
    first = going.timing(None)
    going.granted_at_s = going.started_at_s + 1000.0
    going.begin_attempt()
    going.note_piece((8,))
    end = Finished(reason=FinishReason.STOP, prompt_tokens=4, completion_tokens=1, prefill_s=500.0)
    last = going.timing(end)
    assert (last.queue_s, last.prefill_s, last.first_token_s) == (first.queue_s, first.prefill_s, first.first_token_s)
    assert last.total_s >= first.total_s


def test_an_admission_carries_what_is_left_of_the_time() -> None:
    going = run(30.0, attempt=1, excluded=frozenset({"w#1"}))
    going.begin_attempt()
    admission = going.admission()
    assert admission.timeout_s is not None
    assert 0 < admission.timeout_s <= 30.0
    assert (admission.attempt, admission.excluded_workers, admission.prompt_tokens) == (2, frozenset({"w#1"}), 3)
    assert run().admission().timeout_s is None
