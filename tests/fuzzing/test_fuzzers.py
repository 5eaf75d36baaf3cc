"""A few fixed cases of every fuzzer, so that a fuzzer that no longer runs is noticed; `make fuzz` tries many more."""

from __future__ import annotations

from tests.fuzzing.search import load, randomness

SEED = 1


def try_cases(name: str, count: int) -> None:
    fuzzer = load(name)
    for case in range(count):
        fuzzer.try_case(randomness(SEED, case))


def test_keys_files() -> None:
    try_cases("keys_files", 10)


def test_grammars() -> None:
    try_cases("grammars", 4)


def test_cpu_engine() -> None:
    try_cases("cpu_engine", 8)


def test_exllamav2_stand_in() -> None:
    try_cases("exllamav2_stand_in", 6)


def test_scheduler() -> None:
    try_cases("scheduler", 3)
