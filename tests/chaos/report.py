"""What a run of the chaos has to tell."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from tests.chaos.answers import Answer
from tests.chaos.books import COUNTS
from tests.chaos.faults import Fault
from tests.chaos.plan import ChaosPlan
from tests.chaos.questions import KINDS, WAYS
from tests.chaos.run import Outcome

MOST_FAILURES = 40
IN_FLIGHT_S = 0.3
"""Tokens that were made before a fault may come so much after it."""


def is_right(outcome: Outcome) -> bool:
    """Whether nothing is wrong, in either run."""
    return not (outcome.calm.failures or outcome.chaos.failures)


def lines(plan: ChaosPlan, outcome: Outcome) -> Iterator[str]:
    """The whole report."""
    books, faults = outcome.chaos, outcome.faults.made
    answers = [answer for _, answer in books.answers]
    yield f"Chaos: seed {plan.seed}, {len(outcome.calm.answers)} requests in calm, {len(answers)} in chaos"
    yield "Seconds: " + ", ".join(f"{phase} {took_s:.0f}" for phase, took_s in outcome.took_s.items())
    yield ""
    yield from _ends(outcome)
    yield ""
    yield "| | |"
    yield "|---|---:|"
    yield from (f"| {count} | {books.wrong[count]} |" for count in COUNTS)
    yield f"| requests that a killed replica had, asked again | {sum(bool(one.cut_off) for one in answers)} |"
    yield f"| requests that were told to come back, and did | {sum(bool(one.refusals) for one in answers)} |"
    yield f"| comments in streams that waited | {sum(one.comments for one in answers)} |"
    yield ""
    yield from _pauses(faults, outcome)
    yield ""
    failures = [f"in the calm run: {failure}" for failure in outcome.calm.failures] + books.failures
    yield from (f"WRONG: {failure}" for failure in failures[:MOST_FAILURES])
    if len(failures) > MOST_FAILURES:
        yield f"... and {len(failures) - MOST_FAILURES} more"
    yield "Nothing is wrong." if is_right(outcome) else f"{len(failures)} things are wrong."


def _ends(outcome: Outcome) -> Iterator[str]:
    ways, kinds = list(dict.fromkeys(WAYS)), list(dict.fromkeys(KINDS))
    yield f"| right answers | {' | '.join(kinds)} |"
    yield "|---|" + "---:|" * len(kinds)
    for way in ways:
        yield f"| {way} | {' | '.join(str(outcome.chaos.ends[way, kind] or '') for kind in kinds)} |"


def _pauses(faults: list[Fault], outcome: Outcome) -> Iterator[str]:
    """Of each kind of fault, the longest pause that began with it. Two faults may share one."""
    streams = [answer for question, answer in outcome.chaos.answers if question.streamed and not answer.cut_off]
    yield "| fault | times | longest gap in a stream, s | median of the longest, s | longest wait for a first text, s |"
    yield "|---|---:|---:|---:|---:|"
    for kind, times in Counter(fault.kind for fault in faults).items():
        hits = [pause_of(fault, streams) for fault in faults if fault.kind == kind]
        gaps, waits = [gap for gap, _ in hits], [wait for _, wait in hits]
        yield f"| {kind} | {times} | {max(gaps):.2f} | {statistics.median(gaps):.2f} | {max(waits):.2f} |"
    calm = [_longest_gap(answer) for question, answer in outcome.calm.answers if question.streamed]
    yield f"| none (calm run) | | {max(calm, default=0.0):.2f} | | |"


def pause_of(fault: Fault, streams: list[Answer]) -> tuple[float, float]:
    """The longest gap between two texts of a stream, and the longest wait for a first one, that a fault fell into."""
    gap_s = wait_s = 0.0
    for answer in streams:
        before_s, first = answer.started_s, True
        for now_s in answer.arrivals_s:
            if before_s <= fault.at_s + IN_FLIGHT_S and now_s >= fault.at_s:
                if first:
                    wait_s = max(wait_s, now_s - before_s)
                else:
                    gap_s = max(gap_s, now_s - before_s)
            before_s, first = now_s, False
    return gap_s, wait_s


def _longest_gap(answer: Answer) -> float:
    arrivals = answer.arrivals_s
    return max((after - before for before, after in pairwise(arrivals)), default=0.0)
