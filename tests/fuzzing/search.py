"""`python -m tests.fuzzing.search NAME`: one fuzzer, case after case, until the time is up or something is found.

Case number i of seed s is always the same case, so that a finding is repeated with `--seed s --first i --cases 1`.
A case that does not end is a finding too: the process ends with it.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import itertools
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random, SystemRandom
from types import FrameType

NAMES = ("cpu_engine", "exllamav2_stand_in", "scheduler", "grammars", "keys_files")
FOUND = 1
PROGRESS_EVERY_S = 60.0
CASE_SECONDS = 120.0
_GRACE_S = 10.0
_STDERR = 2  # the file itself, whatever stands for it in Python


@dataclass(frozen=True)
class Fuzzer:
    claim: str
    try_case: Callable[[Random], str]


def load(name: str) -> Fuzzer:
    module = importlib.import_module(f"tests.fuzzing.{name}")
    return Fuzzer(module.CLAIM, module.try_case)


def randomness(seed: int, case: int) -> Random:
    """What case number `case` of a search is made from. A string, since Python's hash of a tuple is no seed."""
    return Random(f"{seed}:{case}")


def search(
    name: str, seed: int, seconds: float, first: int, cases: int | None, *, case_seconds: float = CASE_SECONDS
) -> int:
    """Tries cases from number `first` on, and returns an exit code: 0, or FOUND at the first finding.

    A case that takes more than `case_seconds` ends the process, with FOUND. To be called on the main thread.
    """
    fuzzer = load(name)
    print(f"{name}: {fuzzer.claim}\n{name}: seed {seed}, for {seconds:.0f} s", flush=True)
    kinds: Counter[str] = Counter()
    started_s = told_s = time.monotonic()
    for case in itertools.count(first):
        now_s = time.monotonic()
        if now_s - started_s >= seconds or case - first == cases:
            break
        if now_s - told_s >= PROGRESS_EVERY_S:
            told_s = now_s
            print(tally(name, kinds, now_s - started_s), flush=True)
        try:
            with _bounded(name, seed, case, case_seconds):
                kinds[fuzzer.try_case(randomness(seed, case))] += 1
        except Exception:  # noqa: BLE001 whatever it is, it is the finding
            traceback.print_exc()
            print(finding(name, seed, case, "found something"), flush=True)
            return FOUND
    print(tally(name, kinds, time.monotonic() - started_s) + "; nothing found", flush=True)
    return 0


@contextmanager
def _bounded(name: str, seed: int, case: int, seconds: float) -> Iterator[None]:
    """End the process if this takes longer. Nothing is raised, since what is tried might catch it and go on."""

    def tell(_signal: int, frame: FrameType | None) -> None:
        traceback.print_stack(frame)
        print(finding(name, seed, case, f"more than {seconds:g} s were spent"), flush=True)
        os._exit(FOUND)

    before = signal.signal(signal.SIGALRM, tell)
    # Python handles no signal inside a library that does not return: there the stack alone is told.
    faulthandler.dump_traceback_later(seconds + _GRACE_S, exit=True, file=_STDERR)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # pytest's own, in a test


def finding(name: str, seed: int, case: int, what: str) -> str:
    repeat = f"python -m tests.fuzzing.search {name} --seed {seed} --first {case} --cases 1"
    return f"{name}: {what} in case {case}. To see it again: {repeat}"


def tally(name: str, kinds: Counter[str], spent_s: float) -> str:
    counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    return f"{name}: {kinds.total():,} cases in {spent_s:.0f} s ({counted or 'none'})"


def main() -> int:
    parser = argparse.ArgumentParser(description="One fuzzer, case after case.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="a random one, which is printed, where none is given")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--cases", type=int, default=None, help="how many at most")
    parser.add_argument("--case-seconds", type=float, default=CASE_SECONDS, help="what one may take; more is a finding")
    given = parser.parse_args()
    seed = SystemRandom().getrandbits(32) if given.seed is None else given.seed
    return search(given.name, seed, given.seconds, given.first, given.cases, case_seconds=given.case_seconds)


if __name__ == "__main__":
    sys.exit(main())
