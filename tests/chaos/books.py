"""The books of a run: what was asked, what has come, and what of it is wrong."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.answers import Answer, Said
from tests.chaos.faults import Fault
from tests.chaos.questions import SCHEMA, Question

LOST = "requests lost"
TOKENS = "streams with a lost or doubled token"
GREEDY_CHANGED = "greedy answers other than in the calm run"
SEEDED_CHANGED = "seeded answers other than in the calm run"
PAGES = "pages leaked"
PROCESSES = "processes left over"
ENDLESS = "requests that never ended"
COUNTS = (LOST, TOKENS, GREEDY_CHANGED, SEEDED_CHANGED, PAGES, PROCESSES, ENDLESS)
"""All of which must be 0."""


@dataclass(slots=True)
class Books:
    """`expected` is what a calm run has said, by the number of the question; empty: this is the calm run."""

    expected: dict[int, Said] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Right answers by way and kind."""
    answers: list[tuple[Question, Answer]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    """All that were made so far."""
    heard: dict[int, Said] = field(default_factory=dict)

    def judge(self, question: Question, answer: Answer) -> None:
        """A request has ended."""
        self.answers.append((question, answer))
        if answer.error is not None:
            self.fail(LOST, f"{_named(question)} {self._life_of(answer)}: {answer.error!r}")
            return
        said = self.heard[question.number] = answer.said()
        fault = _incomplete(question, said)
        if fault is not None:
            self.fail(TOKENS if question.streamed else LOST, f"{_named(question)}: {fault}")
        elif self.expected and said != self.expected[question.number]:
            self._changed(question, self.expected[question.number], said)
        else:
            self.ends[question.way, question.kind] += 1

    def _life_of(self, answer: Answer) -> str:
        """How long a request lived, and what was broken meanwhile."""
        faults = [f"{fault.kind} at {fault.at_s - answer.started_s:.1f}" for fault in self.faults]
        hits = [told for told, fault in zip(faults, self.faults, strict=True) if fault.at_s > answer.started_s - 1.0]
        return f"after {time.monotonic() - answer.started_s:.1f} s, with {', '.join(hits) or 'no fault'}"

    def endless(self, question: Question, answer: Answer, limit_s: float) -> None:
        """A request has not ended."""
        self.fail(ENDLESS, f"{_named(question)}: no end after {limit_s:g} s, {len(answer.arrivals_s)} pieces came")

    def fail(self, count: str, what: str, times: int = 1) -> None:
        """Something that must not be."""
        self.wrong[count] += times
        self.failures.append(f"{count}: {what}")

    def _changed(self, question: Question, wanted: Said, got: Said) -> None:
        greedy = question.options["temperature"] == 0.0
        told = f"{_named(question)}: {_difference(wanted, got)}"
        self.fail(GREEDY_CHANGED if greedy else SEEDED_CHANGED, told)
        if question.streamed and len(wanted.tokens[0]) != len(got.tokens[0]):
            self.fail(TOKENS, told)


def _named(question: Question) -> str:
    return f"{question.way} {question.number} ({question.kind})"


def _incomplete(question: Question, said: Said) -> str | None:
    """What is wrong with an answer by itself: every completion has an end, and the usage counts what was shown."""
    if None in said.reasons:
        return f"a completion has no finish reason: {said.reasons}"
    shown = sum(len(tokens) for tokens in said.tokens)
    if question.kind != SCHEMA and set(said.reasons) == {"length"} and shown != said.completion_tokens:
        return f"{shown} tokens came, and the usage is {said.completion_tokens}"
    return None


def _difference(wanted: Said, got: Said) -> str:
    """Where two answers part."""
    for choice, (before, after) in enumerate(zip(wanted.tokens, got.tokens, strict=True)):
        if before != after:
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
            at = min(len(before), len(after)) if at is None else at
            ends = f"{before[at : at + 6]} of {len(before)}, got {after[at : at + 6]} of {len(after)}"
            return f"choice {choice} at token {at}: wanted {ends}"
    for name in ("texts", "reasons", "prompt_tokens", "completion_tokens"):
        if getattr(wanted, name) != getattr(got, name):
            return f"{name}: wanted {getattr(wanted, name)!r}, got {getattr(got, name)!r}"
    return "nothing"
