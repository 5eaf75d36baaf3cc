"""The checker of the soak finds what it is there to find."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from ray.exceptions import ActorDiedError, TaskCancelledError

from actors import (
    DeadlineExceeded,
    FinishReason,
    InvalidRequest,
    Overloaded,
    PoolClosed,
    Usage,
    WorkerDied,
)
from actors.builtin_model import builtin_model_path
from actors.engines.simulated import expected_tokens
from actors.request.prompt import PromptEncoder
from tests.soak.checker import LATE_S, Answer, Checker, fault_of
from tests.soak.questions import Question, QuestionMaker

PROMPT = (10, 11, 20)
TOKENS = expected_tokens(PROMPT, 6)
PIECES = [f" w{token}" for token in TOKENS]
QUESTION = Question(prompt=PROMPT, prompt_tokens=3, token_ids=TOKENS, text="".join(PIECES))


def answer(tokens: int = 6, *, done: bool = True, error: BaseException | None = None) -> Answer:
    """The right answer as far as `tokens`."""
    return Answer(
        texts=PIECES[:tokens],
        token_ids=list(TOKENS[:tokens]),
        reason=FinishReason.LENGTH if done else None,
        usage=Usage(3, 6) if done else None,
        error=error,
    )


def test_the_right_answer_is_right() -> None:
    assert fault_of(QUESTION, answer()) is None


def test_a_token_that_is_lost_or_doubled_or_wrong_is_found() -> None:
    lost, doubled, wrong = answer(), answer(), answer()
    del lost.texts[2], lost.token_ids[2]
    doubled.texts.insert(2, doubled.texts[2])
    doubled.token_ids.insert(2, doubled.token_ids[2])
    wrong.token_ids[3] += 1
    for found in (lost, doubled, wrong):
        assert "wrong t" in str(fault_of(QUESTION, found))


def test_so_it_is_in_what_came_before_an_error_or_a_cancellation() -> None:
    found = answer(3, done=False, error=WorkerDied("gone"))
    assert fault_of(QUESTION, found) is None
    del found.texts[1], found.token_ids[1]
    assert fault_of(QUESTION, found) is not None
    found.error, found.cancelled = None, True
    assert fault_of(QUESTION, found) is not None


def test_an_answer_that_is_too_short_or_counts_wrong_is_found() -> None:
    assert "ended with" in str(fault_of(QUESTION, answer(4)))
    assert "usage" in str(fault_of(QUESTION, replace_usage(Usage(3, 5))))
    assert "usage" in str(fault_of(QUESTION, replace_usage(Usage(2, 6))))
    assert "without a finish reason" in str(fault_of(QUESTION, answer(6, done=False)))


def replace_usage(usage: Usage) -> Answer:
    found = answer()
    found.usage = usage
    return found


def test_errors_are_typed_and_have_a_cause() -> None:
    assert fault_of(QUESTION, answer(0, done=False, error=RuntimeError("what?"))) is not None
    assert fault_of(QUESTION, answer(0, done=False, error=ActorDiedError())) is not None
    assert fault_of(QUESTION, answer(0, done=False, error=TaskCancelledError())) is not None
    for error in (PoolClosed("x"), DeadlineExceeded("x"), Overloaded("x"), InvalidRequest("x")):
        assert error.code in str(fault_of(QUESTION, answer(0, done=False, error=error)))


def test_what_was_done_on_purpose_is_a_cause() -> None:
    closed = answer(2, done=False, error=PoolClosed("x"))
    closed.front_ends = True
    killed = answer(0, done=False, error=ActorDiedError())
    killed.front_ends = True
    cancelled = answer(0, done=False, error=TaskCancelledError())
    cancelled.cancelled = True
    refused = answer(0, done=False, error=Overloaded("x"))
    refused.patient = False
    assert [fault_of(QUESTION, one) for one in (closed, killed, cancelled, refused)] == [None] * 4


def test_a_time_limit_that_is_kept_late_is_found() -> None:
    limited = replace(QUESTION, options={"timeout_s": 0.5})
    found = answer(1, done=False, error=DeadlineExceeded("x"))
    assert fault_of(limited, found) is None
    found.started_s = time.monotonic() - 1.0 - LATE_S
    assert "time limit" in str(fault_of(limited, found))


def test_a_wrong_request_is_refused_as_it_should_be() -> None:
    wrong = Question(prompt=(), refusal="invalid_request")
    assert fault_of(wrong, Answer(error=InvalidRequest("empty"))) is None
    assert fault_of(wrong, Answer(error=WorkerDied("gone"))) is not None
    assert fault_of(wrong, Answer(reason=FinishReason.LENGTH)) is not None
    assert fault_of(wrong, answer(1, done=False)) is not None


def test_failures_are_bounded_and_counted() -> None:
    checker = Checker()
    for _ in range(1000):
        checker.judge("stream", QUESTION, answer(4))
    assert checker.failure_count == 1000
    assert len(checker.failures) < 100
    assert checker.ends == {("stream", "answered"): 1000}


def test_a_front_that_is_cut_off_is_found_by_what_it_loses() -> None:
    checker = Checker()
    for _ in range(96):
        checker.judge("batch", QUESTION, answer())
    for lost in range(1, 5):
        checker.judge("batch", QUESTION, answer(0, done=False, error=WorkerDied("three attempts were lost")))
        checker.judge("stream", QUESTION, answer(1, done=False, error=WorkerDied("its only one was lost")))
        checker.judge_shares()
        assert checker.failure_count == (1 if lost == 4 else 0)


def test_the_same_seed_asks_the_same() -> None:
    encoder = PromptEncoder.load(builtin_model_path())
    one, other = (QuestionMaker(random.Random("7/user-3"), encoder) for _ in range(2))
    assert [one.right() for _ in range(20)] == [other.right() for _ in range(20)]
    assert [one.wrong().refusal for _ in range(20)] == [other.wrong().refusal for _ in range(20)]


@pytest.mark.parametrize("chunk", [1, 3])
def test_how_an_answer_is_cut_does_not_matter(chunk: int) -> None:
    found = answer()
    found.texts = ["".join(PIECES[at : at + chunk]) for at in range(0, 6, chunk)]
    assert fault_of(QUESTION, found) is None
