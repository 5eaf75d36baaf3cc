"""A request in its front: its time limit, and cancellations that come together with a result."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from actors.errors import DeadlineExceeded, EngineFailure, WorkerDied
from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.front.run import MAX_ATTEMPTS, Run
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


def test_what_has_shown_nothing_is_tried_again_a_few_times() -> None:
    for attempt in range(1, MAX_ATTEMPTS):
        run(attempt=attempt).raise_if_final(AttemptLost("gone"))
        run(attempt=attempt).raise_if_final(EngineFailure("broken"))
    with pytest.raises(WorkerDied, match="3 attempts of this request were lost, the last one: gone"):
        run(attempt=MAX_ATTEMPTS).raise_if_final(AttemptLost("gone"))
    with pytest.raises(EngineFailure, match="broken"):
        run(attempt=MAX_ATTEMPTS).raise_if_final(EngineFailure("broken"))


def test_what_has_shown_something_cannot_begin_anew() -> None:
    with pytest.raises(WorkerDied, match="while it was generating: gone"):
        run(attempt=1, shown=True).raise_if_final(AttemptLost("gone"))
    with pytest.raises(EngineFailure):
        run(attempt=1, shown=True).raise_if_final(EngineFailure("broken"))


def test_an_admission_carries_what_is_left_of_the_time() -> None:
    admission = run(30.0, attempt=2, excluded=frozenset({"w#1"})).admission()
    assert admission.timeout_s is not None
    assert 0 < admission.timeout_s <= 30.0
    assert (admission.attempt, admission.excluded_workers, admission.prompt_tokens) == (2, frozenset({"w#1"}), 3)
    assert run().admission().timeout_s is None
