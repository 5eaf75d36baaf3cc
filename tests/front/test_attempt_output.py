"""An attempt's output: pieces, ends and losses, for readers that stream and readers that wait for the whole."""

import asyncio

import pytest

from actors.front.attempt_output import AttemptLost, AttemptOutput
from actors.messages import Finished
from actors.results import FinishReason

END = Finished(reason=FinishReason.LENGTH, prompt_tokens=1, completion_tokens=2)


async def test_pieces_join_until_they_are_taken() -> None:
    output = AttemptOutput("w#1", whole=False)
    output.put("a", (1,), ())
    output.put("b", (2,), ())
    assert await output.take() == ("ab", (1, 2), (), None)
    output.finish(END)
    assert await output.take() == ("", (), (), END)


async def test_a_streaming_reader_wakes_for_a_piece() -> None:
    output = AttemptOutput("w#1", whole=False)
    reader = asyncio.create_task(output.take())
    await asyncio.sleep(0)
    output.put("a", (1,), ())
    assert await asyncio.wait_for(reader, 5) == ("a", (1,), (), None)


async def test_a_reader_of_the_whole_sleeps_through_pieces() -> None:
    output = AttemptOutput("w#1", whole=True)
    reader = asyncio.create_task(output.take())
    await asyncio.sleep(0)
    output.put("a", (1,), ())
    await asyncio.sleep(0)
    assert not reader.done()
    output.put("b", (2,), ())
    output.finish(END)
    assert await asyncio.wait_for(reader, 5) == ("ab", (1, 2), (), END)


async def test_a_loss_comes_after_what_was_sent_before_it() -> None:
    output = AttemptOutput("w#1", whole=False)
    output.put("a", (1,), ())
    output.lose("gone")
    assert (await output.take())[0] == "a"
    with pytest.raises(AttemptLost, match="gone"):
        await output.take()


async def test_a_loss_gives_a_reader_of_the_whole_what_had_come_and_then_its_end() -> None:
    output = AttemptOutput("w#1", whole=True)
    output.put("a", (1,), ())
    output.lose("gone")
    assert await output.take() == ("a", (1,), (), None)
    with pytest.raises(AttemptLost):
        await output.take()


async def test_a_loss_after_the_end_changes_nothing() -> None:
    output = AttemptOutput("w#1", whole=False)
    output.finish(END)
    output.lose("gone")
    assert (await output.take())[3] is END
