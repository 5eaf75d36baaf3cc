"""The judge of the chaos sees what it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.answers import Answer, Said
from tests.chaos.books import ENDLESS, GREEDY_CHANGED, LOST, SEEDED_CHANGED, TOKENS, Books
from tests.chaos.faults import Fault
from tests.chaos.plan import KILL_WORKER
from tests.chaos.questions import GREEDY, HTTP_STREAM, HTTP_WHOLE, SEEDED, Question
from tests.chaos.report import pause_of

TEXTS = [" a", " b", " c", " d"]


def question(*, way: str = HTTP_STREAM, kind: str = GREEDY) -> Question:
    temperature = 0.0 if kind == GREEDY else 0.9
    return Question(number=1, way=way, kind=kind, prompt="x", max_tokens=4, options={"temperature": temperature})


def answer(texts: list[str], *, usage: int = 4, reason: str | None = "length") -> Answer:
    made = Answer()
    for text in texts:
        made.take(0, text, [text], None)
    made.take(0, "", [], reason)
    made.usage = (1, usage)
    return made


def judged(asked: Question, got: Answer, expected: Said | None = None) -> dict[str, int]:
    books = Books({1: expected or answer(TEXTS).said()})
    books.judge(asked, got)
    assert bool(books.failures) == bool(books.wrong)
    return dict(books.wrong)


def test_the_same_answer_is_right() -> None:
    assert judged(question(), answer(TEXTS)) == {}


@pytest.mark.parametrize(
    ("got", "wrong"),
    [
        (answer([" a", " b", " d"]), {TOKENS: 1}),
        (answer([" a", " b", " b", " c", " d"]), {TOKENS: 1}),
        (answer([" a", " b", " c"], usage=3), {GREEDY_CHANGED: 1, TOKENS: 1}),
        (answer([" a", " b", " x", " d"]), {GREEDY_CHANGED: 1}),
        (answer(TEXTS, reason="stop"), {GREEDY_CHANGED: 1}),
        (answer(TEXTS, reason=None), {TOKENS: 1}),
    ],
    ids=["a lost token", "a doubled token", "a shorter answer", "another token", "another end", "no end"],
)
def test_what_is_wrong_with_a_stream_is_counted(got: Answer, wrong: dict[str, int]) -> None:
    assert judged(question(), got) == wrong


def test_another_seeded_answer_is_counted_by_itself() -> None:
    assert judged(question(kind=SEEDED), answer([" a", " b", " x", " d"])) == {SEEDED_CHANGED: 1}


def test_an_error_is_a_lost_request() -> None:
    failed = answer([" a"])
    failed.error = ValueError("broken")
    assert judged(question(), failed) == {LOST: 1}
    assert judged(question(way=HTTP_WHOLE), answer(TEXTS, usage=3)) == {LOST: 1}


def test_a_request_without_an_end_is_counted() -> None:
    books = Books()
    books.endless(question(), answer([" a"]), 1.0)
    assert books.wrong[ENDLESS] == 1


def stream(started_s: float, *arrivals_s: float) -> Answer:
    made = Answer(started_s=started_s)
    made.arrivals_s = list(arrivals_s)
    return made


@pytest.mark.parametrize(
    ("answers", "pause"),
    [
        (lambda: [stream(0.0, 1.0, 4.0, 5.0)], (3.0, 0.0)),
        (lambda: [stream(0.0, 1.9, 2.2, 4.2, 4.3)], (2.0, 0.0)),
        (lambda: [stream(1.5, 6.0, 6.5)], (0.0, 4.5)),
        (lambda: [stream(3.0, 4.0, 9.0)], (0.0, 0.0)),
    ],
    ids=["a gap over it", "what was in flight still came", "a wait for the first text", "later"],
)
def test_the_pause_of_a_fault_is_the_longest_that_it_fell_into(
    answers: Callable[[], list[Answer]], pause: tuple[float, float]
) -> None:
    assert pause_of(Fault(KILL_WORKER, 2.0), answers()) == pytest.approx(pause)


def test_tokens_that_a_stop_withheld_are_not_missed() -> None:
    stopped = answer(TEXTS, reason="stop")
    expected = replace(stopped.said(), completion_tokens=4)
    assert judged(question(), stopped, expected) == {}
