"""A short soak: everything of the long one but the judgement of memory, which takes longer."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.soak.plan import soak_plan

MINUTES = 0.5
SEED = 1


@pytest.mark.ray
@pytest.mark.timeout(soak_plan(MINUTES, SEED).watchdog_s + 60.0)
def test_nothing_is_wrong_after_half_a_minute_of_chaos() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", str(MINUTES), "--seed", str(SEED)],
        capture_output=True,
        text=True,
        timeout=soak_plan(MINUTES, SEED).watchdog_s + 30.0,
        check=False,
    )
    told = done.stdout + done.stderr[-4000:]
    assert done.returncode == 0, told
    assert "Nothing is wrong." in done.stdout, told
    for kind in ("worker killed", "link broken", "front closed"):
        assert re.search(rf"\d+ x {kind}", done.stdout), told
    for kind in ("stream", "whole", "batch", "remote"):
        assert re.search(rf"^\| {kind} \|.* \d+ \|", done.stdout, re.MULTILINE), told
