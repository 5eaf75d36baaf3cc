"""An attempt's inbox: pieces, ends and losses, for readers that stream and readers that wait for the whole."""

import asyncio

import pytest

from actors.front.attempt_output import AttemptLost, Inbox
from actors.messages import Finished
from actors.results import FinishReason

END = Finished(reason=FinishReason.LENGTH, prompt_tokens=1, completion_tokens=2)


async def test_pieces_join_until_they_are_taken() -> None:
    inbox = Inbox("w#1", whole=False)
    inbox.put("a", (1,), ())
    inbox.put("b", (2,), ())
    assert await inbox.take() == ("ab", (1, 2), (), None)
    inbox.finish(END)
    assert await inbox.take() == ("", (), (), END)


async def test_a_streaming_reader_wakes_for_a_piece() -> None:
    inbox = Inbox("w#1", whole=False)
    reader = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.put("a", (1,), ())
    assert await asyncio.wait_for(reader, 5) == ("a", (1,), (), None)


async def test_a_reader_of_the_whole_sleeps_through_pieces() -> None:
    inbox = Inbox("w#1", whole=True)
    reader = asyncio.create_task(inbox.take())
    await asyncio.sleep(0)
    inbox.put("a", (1,), ())
    await asyncio.sleep(0)
    assert not reader.done()
    inbox.put("b", (2,), ())
    inbox.finish(END)
    assert await asyncio.wait_for(reader, 5) == ("ab", (1, 2), (), END)


async def test_a_loss_comes_after_what_was_sent_before_it() -> None:
    inbox = Inbox("w#1", whole=False)
    inbox.put("a", (1,), ())
    inbox.lose("gone")
    assert (await inbox.take())[0] == "a"
    with pytest.raises(AttemptLost, match="gone"):
        await inbox.take()


async def test_a_loss_ends_a_reader_of_the_whole_at_once() -> None:
    inbox = Inbox("w#1", whole=True)
    inbox.put("a", (1,), ())
    inbox.lose("gone")
    with pytest.raises(AttemptLost):
        await inbox.take()


async def test_a_loss_after_the_end_changes_nothing() -> None:
    inbox = Inbox("w#1", whole=False)
    inbox.finish(END)
    inbox.lose("gone")
    assert (await inbox.take())[3] is END
