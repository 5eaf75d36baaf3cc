"""Judges every end of a request, and keeps the count. What is wrong is kept with all that is known of it."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field

from ray.exceptions import RayActorError, TaskCancelledError

from actors import ExlpoolError, FinishReason, GenerationResult, Usage
from tests.soak.questions import Question

LATE_S = 15.0
"""A request with a time limit of its own ends at most so much later, on a machine with no core to spare."""
MAX_FAILURES = 40
MAX_MESSAGE = 160
FAULT_CODES = frozenset({"worker_died", "no_healthy_worker"})
"""What faults may do to a request that cannot be tried again."""
REPLAYED_KINDS = ("whole", "burst", "batch", "remote")
MOST_LOST, MOST_LOST_SHARE = 3, 0.01


@dataclass(slots=True)
class Answer:
    """What has come back of one request so far, and how it ended."""

    started_s: float = field(default_factory=time.monotonic)
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    usage: Usage | None = None
    error: BaseException | None = None
    cancelled: bool = False
    """It was cancelled on purpose, and need not have an end of its own."""
    front_ends: bool = False
    """Its front was closed, or killed, on purpose."""
    patient: bool = True
    of_batch: bool = False
    request_id: str = ""

    def take_result(self, result: GenerationResult) -> None:
        self.texts, self.token_ids = [result.text], list(result.token_ids)
        self.reason, self.usage, self.request_id = result.finish_reason, result.usage, result.request_id


def fault_of(question: Question, answer: Answer) -> str | None:
    """What is wrong with an answer that has ended; None: nothing."""
    text, known = "".join(answer.texts), question.token_ids
    if question.refusal is None:
        if not question.text.startswith(text):
            return f"wrong text: {_difference(question.text, text)}"
        if tuple(answer.token_ids) != known[: len(answer.token_ids)]:
            return f"wrong tokens: {answer.token_ids[:5]}… of {known[:5]}…"
    elif text or answer.token_ids:
        return "text for a request that had to be refused"
    if answer.error is not None:
        return _fault_of_error(question, answer, answer.error)
    if answer.reason is None:
        return None if answer.cancelled else "ended without a finish reason"
    return _fault_of_end(question, answer, text)


def _fault_of_end(question: Question, answer: Answer, text: str) -> str | None:
    if question.refusal is not None:
        return f"answered instead of refused with {question.refusal}"
    if (text, answer.reason) != (question.text, question.reason):
        return f"ended with {answer.reason} instead of {question.reason}: {_difference(question.text, text)}"
    if question.reason is FinishReason.LENGTH and tuple(answer.token_ids) != question.token_ids:
        return f"{len(answer.token_ids)} of {len(question.token_ids)} tokens"
    usage = answer.usage
    if usage is None or usage.prompt_tokens != question.prompt_tokens:
        return f"wrong usage: {usage} for a prompt of {question.prompt_tokens} tokens"
    if question.reason is FinishReason.LENGTH and usage.completion_tokens != len(question.token_ids):
        return f"wrong usage: {usage} for {len(question.token_ids)} tokens"
    return None


def _fault_of_error(question: Question, answer: Answer, error: BaseException) -> str | None:
    elapsed_s = time.monotonic() - answer.started_s
    if answer.front_ends and isinstance(error, RayActorError):
        return None
    if answer.cancelled and isinstance(error, TaskCancelledError):
        return None
    if not isinstance(error, ExlpoolError):
        return f"not a typed error: {error!r}"
    if question.refusal is not None:
        allowed = {question.refusal}
    else:
        allowed = set(FAULT_CODES)
        if question.timeout_s is not None:
            allowed.add("deadline_exceeded")
        if not answer.patient:
            allowed.add("server_overloaded")
    if answer.front_ends:
        allowed.add("pool_closed")
    if answer.cancelled:
        allowed |= {"cancelled", "pool_closed"}
    if error.code not in allowed:
        return f"{error.code}, which it cannot have: {error}"
    if question.timeout_s is not None and elapsed_s > question.timeout_s + LATE_S:
        return f"ended {elapsed_s:.1f} s after it began, with a time limit of {question.timeout_s:.2f} s"
    return None


def _without_numbers(message: str) -> str:
    """What is the same in many messages: without ids and numbers, and not too much of it."""
    return re.sub(r"#?\b[0-9a-f]{8,}\b|\d[\d.]*", "N", message)[:MAX_MESSAGE]


def _difference(wanted: str, got: str) -> str:
    same = next((at for at, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))
    return (
        f"at {same}: wanted {wanted[same : same + 30]!r} of {len(wanted)}, got {got[same : same + 30]!r} of {len(got)}"
    )


class Checker:
    """The books of a run."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, str]] = Counter()
        """By kind of request and kind of end."""
        self.errors: Counter[str] = Counter()
        """What errors said, numbers and ids left out."""
        self.failures: list[str] = []
        self.failure_count = 0
        self.faults: Counter[str] = Counter()
        """What was broken on purpose, by kind."""

    def judge(self, kind: str, question: Question, answer: Answer) -> None:
        """Count an end, and keep what is wrong with it."""
        self.ends[kind, self._end_of(answer)] += 1
        if isinstance(answer.error, ExlpoolError):
            self.errors[f"{answer.error.code}: {_without_numbers(answer.error.message)}"] += 1
        fault = fault_of(question, answer)
        if fault is not None:
            elapsed_s = time.monotonic() - answer.started_s
            asked = {name: value for name, value in question.options.items() if name != "stop"}
            self.fail(f"{kind} {answer.request_id} after {elapsed_s:.1f} s: {fault} (asked: {asked})")

    def judge_shares(self) -> None:
        """Requests that are tried again elsewhere survive nearly all faults: three of them in the few seconds that one
        lives are rare. Many that were lost mean that a front is cut off from a worker that lives."""
        for kind in REPLAYED_KINDS:
            all_ends = sum(count for (of, _), count in self.ends.items() if of == kind)
            lost = sum(self.ends[kind, code] for code in FAULT_CODES)
            if lost > max(MOST_LOST, MOST_LOST_SHARE * all_ends):
                self.fail(f"{lost} of {all_ends} requests of kind {kind} were lost, though they are tried again")

    def fail(self, what: str) -> None:
        """Something that must not be. The first ones are kept word for word, all are counted."""
        self.failure_count += 1
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(what)

    def _end_of(self, answer: Answer) -> str:
        if answer.reason is not None:
            return "answered"
        if answer.cancelled:
            return "cancelled"
        if isinstance(answer.error, ExlpoolError):
            return answer.error.code
        return "nothing" if answer.error is None else type(answer.error).__name__
