"""The dispatcher's streams of decisions: each front hears its own, a newer stream takes over, an end is an end."""

import asyncio

import pytest

from actors.dispatcher import decisions
from actors.dispatcher.decisions import DecisionStreams
from actors.messages import Grant, Refusal, RefusalReason

GRANT = Grant("r", 1, "w#1")
REFUSAL = Refusal("r", RefusalReason.NO_WORKER, "closing")


async def test_a_decision_reaches_its_front_and_no_other() -> None:
    streams = DecisionStreams()
    mine, other = streams.open("a"), streams.open("b")
    streams.put("a", GRANT)
    streams.put("unknown", REFUSAL)
    async with asyncio.timeout(5):
        assert await mine.take() == (GRANT,)
        other.close()
        assert await other.take() is None


async def test_what_was_decided_before_the_end_is_still_delivered() -> None:
    streams = DecisionStreams()
    stream = streams.open("a")
    streams.put("a", GRANT)
    streams.put("a", REFUSAL)
    streams.close_all()
    async with asyncio.timeout(5):
        assert await stream.take() == (GRANT, REFUSAL)
        assert await stream.take() is None


async def test_a_newer_stream_ends_the_one_before_and_its_front_is_not_gone() -> None:
    streams = DecisionStreams()
    old = streams.open("a")
    new = streams.open("a")
    async with asyncio.timeout(5):
        assert await old.take() is None
    assert not streams.close("a", old)
    streams.put("a", GRANT)
    async with asyncio.timeout(5):
        assert await new.take() == (GRANT,)
    assert streams.close("a", new)
    assert not streams.close("a", new)
    assert len(streams) == 0


async def test_a_stream_with_nothing_to_tell_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "HEARTBEAT_S", 0.01)
    stream = DecisionStreams().open("a")
    async with asyncio.timeout(5):
        assert await stream.take() == ()
        stream.put(GRANT)
        assert await stream.take() == (GRANT,)
