"""A few fixed cases of every fuzzer, so that a fuzzer that no longer runs is noticed; `make fuzz` tries many more."""

from __future__ import annotations

from tests.fuzzing.search import load, randomness

SEED = 1


def try_cases(name: str, count: int) -> None:
    fuzzer = load(name)
    for case in range(count):
        fuzzer.try_case(randomness(SEED, case))


def test_scheduler() -> None:
    try_cases("scheduler", 6)
