"""`python -m tests.fuzzing.search NAME`: one fuzzer, case after case, until the time is up or something is found.

Case number i of seed s is always the same case, so that a finding is repeated with `--seed s --first i --cases 1`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random, SystemRandom

NAMES = ("cpu_engine", "exllamav2_stand_in", "scheduler", "grammars", "keys_files")
FOUND = 1
PROGRESS_EVERY_S = 60.0


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


def search(name: str, seed: int, seconds: float, first: int, cases: int | None) -> int:
    """Tries cases from number `first` on, and returns an exit code: 0, or FOUND at the first finding."""
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
            kinds[fuzzer.try_case(randomness(seed, case))] += 1
        except Exception:  # noqa: BLE001 whatever it is, it is the finding
            traceback.print_exc()
            repeat = f"python -m tests.fuzzing.search {name} --seed {seed} --first {case} --cases 1"
            print(f"{name}: found something in case {case}. To see it again: {repeat}", flush=True)
            return FOUND
    print(tally(name, kinds, time.monotonic() - started_s) + "; nothing found", flush=True)
    return 0


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
    given = parser.parse_args()
    seed = SystemRandom().getrandbits(32) if given.seed is None else given.seed
    return search(given.name, seed, given.seconds, given.first, given.cases)


if __name__ == "__main__":
    sys.exit(main())
