"""A search ends where it finds something and says how to see it again; every fuzzer there is has a `make` target."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzzing import search
from tests.fuzzing.search import FOUND, NAMES, Fuzzer

ROOT = Path(__file__).resolve().parent.parent.parent


ENDLESS = """
import sys
from tests.fuzzing import search

def endless(random):
    while True:
        try:
            while random.random() >= 0.0:
                pass
        except BaseException:
            pass

search.load = lambda name: search.Fuzzer("Nothing goes on for ever.", endless)
sys.exit(search.search("keys_files", 5, 60.0, 7, None, case_seconds=0.05))
"""


def small_or_large(random: Random) -> str:
    number = random.randrange(100)
    assert number != 42, "42 was drawn"
    return "large" if number > 42 else "small"


@pytest.fixture(autouse=True)
def fuzzer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "load", lambda name: Fuzzer("No number is 42.", small_or_large))


def test_a_finding_ends_the_search_and_is_seen_again_in_its_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert search.search("keys_files", 5, 60.0, 0, None) == FOUND
    told = capsys.readouterr()
    assert "42 was drawn" in told.err
    named = re.search(r"--seed 5 --first (\d+) --cases 1", told.out)
    assert named is not None
    assert search.search("keys_files", 5, 60.0, int(named.group(1)), 1) == FOUND


def test_a_search_that_finds_nothing_counts_the_kinds_of_its_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert search.search("keys_files", 5, 60.0, 0, 3) == 0
    told = capsys.readouterr().out
    assert "3 cases" in told
    assert "nothing found" in told
    assert re.search(r"\d (small|large)", told)


def test_a_case_that_does_not_end_is_a_finding_with_its_number_and_its_stack() -> None:
    done = subprocess.run([sys.executable, "-c", ENDLESS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == FOUND
    assert "--seed 5 --first 7 --cases 1" in done.stdout
    assert "in endless" in done.stderr


def test_no_time_is_no_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert search.search("keys_files", 5, 0.0, 0, None) == 0
    assert "0 cases" in capsys.readouterr().out


def test_make_fuzz_runs_every_fuzzer() -> None:
    found = re.search(r"^FUZZERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    assert sorted(found.group(1).split()) == sorted(f"fuzz-{name}" for name in ("properties", *NAMES))
