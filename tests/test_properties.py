"""Searches are repeatable by default and random on demand, and what a search finds is told with what to do about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import settings

from tests.fuzz import ROOT
from tests.properties import FIXED_EXAMPLES, examples

DRAWN = """
import pathlib

from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.properties import examples

OUT = pathlib.Path(__file__).with_name("drawn.txt").open("a")

@given(st.lists(st.integers()), st.floats())
def test_one(numbers, number):
    print(numbers, number, file=OUT)

@examples(20)
@given(st.text())
def test_other(text):
    print(ascii(text), file=OUT)

class Machine(RuleBasedStateMachine):
    @rule(number=st.integers())
    def step(self, number):
        print(number, file=OUT)

Machine.TestCase.settings = examples(10)
TestMachine = Machine.TestCase
"""
BROKEN = """
from hypothesis import given, strategies as st

@given(st.integers())
def test_numbers_are_small(number):
    assert number < 100
"""
SOUND = BROKEN.replace("number < 100", "number == number")
TIMEOUT_S = 120.0


def test_the_fixed_profile_is_loaded_and_leaves_nothing_to_chance() -> None:
    used = settings.default
    assert used is not None
    assert (used.derandomize, used.database, used.deadline, used.max_examples) == (True, None, None, FIXED_EXAMPLES)
    assert (examples(12).max_examples, examples(12).derandomize) == (12, True)


def test_every_run_draws_the_same_examples(tmp_path: Path) -> None:
    seen = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "test_drawn.py").write_text(DRAWN)
        command = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", "-p", "tests.properties", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
        seen.append((folder / "drawn.txt").read_text())
    assert seen[0] == seen[1]
    assert len(seen[0].splitlines()) > FIXED_EXAMPLES


def fuzz(tmp_path: Path, test: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_found.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_a_random_search_tells_what_it_found_and_where_to_keep_it(tmp_path: Path) -> None:
    done = fuzz(tmp_path, BROKEN, FUZZ_SECONDS="60", FUZZ_EXAMPLES="500")
    assert done.returncode == 1, done.stdout + done.stderr
    for part in ("Searching with seed", "number=100", "@example", "FUZZ_SEED="):
        assert part in done.stdout


def test_a_random_search_that_finds_nothing_goes_on_until_the_time_is_up(tmp_path: Path) -> None:
    done = fuzz(tmp_path, SOUND, FUZZ_SECONDS="5", FUZZ_EXAMPLES="50")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The time is up" in done.stdout


def test_a_search_can_be_repeated(tmp_path: Path) -> None:
    done = fuzz(tmp_path, SOUND, FUZZ_SECONDS="60", FUZZ_EXAMPLES="50", FUZZ_SEED="7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Searching with seed 7") == done.stdout.count("Nothing found") == 1
