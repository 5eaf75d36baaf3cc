"""A short chaos: every kind of fault, fewer requests, and the same judgement as in the long one."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.chaos.books import COUNTS
from tests.chaos.plan import short_plan

SEED = 1


@pytest.mark.ray
@pytest.mark.timeout(short_plan(SEED).watchdog_s + 60.0)
def test_nothing_is_lost_while_everything_is_killed() -> None:
    plan = short_plan(SEED)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--seed", str(SEED)],
        capture_output=True,
        text=True,
        timeout=plan.watchdog_s + 30.0,
        check=False,
    )
    told = done.stdout + done.stderr[-4000:]
    assert done.returncode == 0, told
    assert "Nothing is wrong." in done.stdout, told
    for count in COUNTS:
        assert f"| {count} | 0 |" in done.stdout, told
    for kind in set(plan.faults):
        assert re.search(rf"^\| {kind} \| [1-9]", done.stdout, re.MULTILINE), told
