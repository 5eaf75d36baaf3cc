"""What a soak says at its end: tables for a person, which can be pasted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.soak.checker import Checker
from tests.soak.memory import MAX_GROWTH_MIB, MIB, Life, MemoryWatch
from tests.soak.plan import SoakPlan

ROLES = ("fronts here", "front actor", "dispatcher", "worker-0", "worker-1")
JUDGED_ROLES = ("fronts here", "front actor", "dispatcher", "worker-1")
MOST_ERRORS = 25
JUDGEABLE_S = 1500.0
"""Runs this long have to show that memory is flat."""


def judge_memory(plan: SoakPlan, watch: MemoryWatch, checker: Checker) -> None:
    """Count growth as a failure, and so a long run in which there was nothing to judge."""
    judged = watch.judged()
    for role, (life, growth) in judged.items():
        if growth > MAX_GROWTH_MIB:
            checker.fail(f"{role} (process {life.pid}) grows by {growth:.1f} MiB in 10 minutes")
    for role in JUDGED_ROLES:
        if plan.load_s >= JUDGEABLE_S and role not in judged:
            checker.fail(f"no {role} has lived for long enough to tell whether it grows")


def lines(plan: SoakPlan, checker: Checker, watch: MemoryWatch) -> Iterator[str]:
    """The whole report."""
    total = sum(checker.ends.values())
    yield f"Soak: {plan.load_s / 60:g} minutes of load, seed {plan.seed}, {total} requests, each with one end:"
    yield ""
    yield from _ends(checker)
    yield ""
    yield "Broken on purpose: " + ", ".join(f"{count} x {kind}" for kind, count in sorted(checker.faults.items()))
    yield ""
    yield from _memory(plan, watch)
    yield ""
    yield "What errors said:"
    yield from (f"{count:6d} x {message}" for message, count in checker.errors.most_common(MOST_ERRORS))
    yield ""
    for failure in checker.failures:
        yield f"WRONG: {failure}"
    if checker.failure_count > len(checker.failures):
        yield f"... and {checker.failure_count - len(checker.failures)} more"
    yield "Nothing is wrong." if not checker.failure_count else f"{checker.failure_count} things are wrong."


def _ends(checker: Checker) -> Iterator[str]:
    by_kind: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (kind, end), count in checker.ends.items():
        by_kind[kind][end] = count
    ends = sorted({end for counts in by_kind.values() for end in counts})
    yield _row("kind", *ends)
    yield _row("---", *("---:" for _ in ends))
    for kind, counts in sorted(by_kind.items()):
        yield _row(kind, *(str(counts.get(end, "")) for end in ends))


def _memory(plan: SoakPlan, watch: MemoryWatch) -> Iterator[str]:
    """MiB at six moments; a process that was replaced shows that of the one that was there."""
    moments = [plan.load_s * part / 6 for part in range(1, 7)]
    judged = watch.judged()
    yield _row("MiB (USS)", *(f"{at_s / 60:.3g} min" for at_s in moments), "growth in 10 min")
    yield _row("---", *("---:" for _ in moments), "---:")
    for role in ROLES:
        lives = [life for life in watch.lives.values() if life.role == role]
        growth = f"{judged[role][1]:+.1f} MiB" if role in judged else "not judged"
        yield _row(role, *(_used_at(lives, at_s) for at_s in moments), growth)


def _used_at(lives: list[Life], at_s: float) -> str:
    nearest = min(
        ((abs(taken_s - at_s), used) for life in lives for taken_s, used in life.samples), default=(0.0, 0), key=min
    )
    return f"{nearest[1] / MIB:.0f}" if nearest[1] else ""


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
