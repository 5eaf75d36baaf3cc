"""The dispatcher's books of who asked for what: decisions find their front, nothing outlives its request."""

import asyncio

import pytest

from actors.dispatcher.decisions import DecisionBoxes
from actors.messages import Admission, Grant, Refusal, RefusalReason


def admission(request_id: str, attempt: int = 1) -> Admission:
    return Admission(request_id=request_id, attempt=attempt, prompt_tokens=1, max_new_tokens=1)


async def test_a_grant_reaches_the_front_that_asked() -> None:
    boxes = DecisionBoxes()
    mine, other = boxes.open("a"), boxes.open("b")
    assert boxes.enter("a", admission("r")) is None
    grant = Grant("r", 1, "w#1")
    boxes.put(grant)
    assert await asyncio.wait_for(mine.take(), 5) == (grant,)
    other.close()
    assert await asyncio.wait_for(other.take(), 5) is None


def test_asking_twice_is_told_apart_from_asking_anew() -> None:
    boxes = DecisionBoxes()
    boxes.open("a")
    assert boxes.enter("a", admission("r")) is None
    assert boxes.enter("a", admission("r")) is True
    grant = Grant("r", 1, "w#1")
    boxes.note(grant)
    assert boxes.enter("a", admission("r")) is grant
    assert boxes.enter("a", admission("r", attempt=2)) is None


def test_a_cancellation_of_an_older_attempt_leaves_the_newer_one() -> None:
    boxes = DecisionBoxes()
    boxes.open("a")
    boxes.enter("a", admission("r", attempt=2))
    assert not boxes.leave("a", "r", 1)
    assert not boxes.leave("b", "r", 2)
    assert boxes.leave("a", "r", 2)
    assert boxes.owner("r") is None


def test_another_front_cannot_take_a_request_over() -> None:
    boxes = DecisionBoxes()
    boxes.enter("a", admission("r"))
    assert boxes.enter("b", admission("r")) is None
    assert boxes.owner("r") == "a"


def test_a_front_that_goes_leaves_its_requests_behind_once() -> None:
    boxes = DecisionBoxes()
    box = boxes.open("a")
    for name in ("x", "y"):
        boxes.enter("a", admission(name))
    boxes.enter("b", admission("z"))
    assert sorted(boxes.close("a", box)) == ["x", "y"]
    assert boxes.close("a", box) == []
    assert boxes.owner("z") == "b"


def test_a_box_that_was_opened_again_is_not_closed_by_the_old_stream() -> None:
    boxes = DecisionBoxes()
    old = boxes.open("a")
    boxes.open("a")
    boxes.enter("a", admission("r"))
    assert boxes.close("a", old) == []
    assert boxes.owner("r") == "a"


@pytest.mark.parametrize("attempt", [1, 2])
def test_an_end_is_forgotten_unless_a_newer_attempt_runs(attempt: int) -> None:
    boxes = DecisionBoxes()
    boxes.enter("a", admission("r", attempt=attempt))
    boxes.forget("r", 1)
    assert boxes.owner("r") == (None if attempt == 1 else "a")


async def test_a_refusal_ends_the_entry_and_decisions_for_nobody_are_dropped() -> None:
    boxes = DecisionBoxes()
    box = boxes.open("a")
    boxes.enter("a", admission("r"))
    refusal = Refusal("r", RefusalReason.QUEUE_FULL, "full", 1.0)
    boxes.put(refusal)
    boxes.put(Grant("unknown", 1, "w#1"))
    assert await asyncio.wait_for(box.take(), 5) == (refusal,)
    assert boxes.owner("r") is None


async def test_what_was_decided_before_the_end_is_still_delivered() -> None:
    boxes = DecisionBoxes()
    box = boxes.open("a")
    boxes.enter("a", admission("r"))
    refusal = Refusal("r", RefusalReason.NO_WORKER, "closing")
    boxes.put(refusal)
    boxes.close_all()
    assert await asyncio.wait_for(box.take(), 5) == (refusal,)
    assert await asyncio.wait_for(box.take(), 5) is None
