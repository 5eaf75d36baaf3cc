"""A request in its front: its time limit, and cancellations that come together with a result."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from actors.errors import DeadlineExceeded, EngineFailure, NoHealthyWorker, WorkerDied
from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.front.run import MAX_DEATHS, MAX_UNSENT, Run
from actors.messages import Finished
from actors.request.options import request_options
from actors.request.prepare import PreparedRequest
from actors.results import FinishReason


def run(timeout_s: float | None = None, **state: Any) -> Run:
    options = request_options(timeout_s=timeout_s)
    request = PreparedRequest(
        request_id="r",
        token_ids=(1, 2, 3),
        page_hashes=(),
        max_new_tokens=4,
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


def test_what_has_shown_nothing_is_tried_again_a_few_times() -> None:
    for error, final in ((TAKEN_UP, WorkerDied), (EngineFailure("broken"), EngineFailure)):
        tried = run()
        for _ in range(1, MAX_DEATHS):
            assert tried.pause_after(error) == 0.0
        with pytest.raises(final) as caught:
            tried.pause_after(error)
        assert caught.value.retry_after_s is None, "the request itself may be the cause"


def test_attempts_that_no_worker_had_are_no_deaths_under_the_request() -> None:
    tried = run()
    for _ in range(1, MAX_DEATHS):
        tried.pause_after(TAKEN_UP)
    for _ in range(1, MAX_UNSENT):
        assert tried.pause_after(UNSENT) > 0.0
    with pytest.raises(NoHealthyWorker, match="No worker could be reached") as caught:
        tried.pause_after(UNSENT)
    assert caught.value.retry_after_s is not None
    with pytest.raises(WorkerDied, match="3 attempts of this request were lost while a worker had it"):
        tried.pause_after(TAKEN_UP)


def test_what_has_shown_something_cannot_begin_anew_here_and_says_that_it_can_be_sent_again() -> None:
    for error in (TAKEN_UP, UNSENT):
        with pytest.raises(WorkerDied, match=r"while it was generating: gone.*send the request again") as caught:
            run(shown=True).pause_after(error)
        assert caught.value.retry_after_s is not None
    with pytest.raises(EngineFailure):
        run(shown=True).pause_after(EngineFailure("broken"))


def test_an_admission_carries_what_is_left_of_the_time() -> None:
    admission = run(30.0, attempt=2, excluded=frozenset({"w#1"})).admission()
    assert admission.timeout_s is not None
    assert 0 < admission.timeout_s <= 30.0
    assert (admission.attempt, admission.excluded_workers, admission.prompt_tokens) == (2, frozenset({"w#1"}), 3)
    assert run().admission().timeout_s is None
