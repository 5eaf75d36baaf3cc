"""Waiting patiently: an answer in time, none, and one that came while this very process stood still."""

from __future__ import annotations

import asyncio
import time

import pytest

from actors.dispatcher.patience import SLICE_S, wait_patiently


async def test_an_answer_is_returned_and_a_failure_raised() -> None:
    async def answer(value: int) -> int:
        if value < 0:
            raise ValueError("no")
        return value

    assert await wait_patiently(answer(7), 1.0) == 7
    with pytest.raises(ValueError, match="no"):
        await wait_patiently(answer(-1), 1.0)


async def test_without_an_answer_the_time_is_up() -> None:
    with pytest.raises(TimeoutError):
        await wait_patiently(asyncio.Event().wait(), SLICE_S)


async def test_what_came_while_this_process_stood_still_is_taken_in() -> None:
    loop = asyncio.get_running_loop()
    came: asyncio.Future[str] = loop.create_future()
    loop.call_later(0.0, time.sleep, 3 * SLICE_S)  # for longer than the patience
    loop.call_later(3.5 * SLICE_S, came.set_result, "alive")
    assert await wait_patiently(came, 2 * SLICE_S) == "alive"
