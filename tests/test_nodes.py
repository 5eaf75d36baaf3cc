"""A node dies, and another one joins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import marked_environment

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 240.0


@pytest.mark.timeout(TIMEOUT_S + 30.0)
def test_a_node_s_workers_go_with_it_and_start_on_one_that_joins(mark: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.node_death"],
        cwd=ROOT,
        env=marked_environment(mark),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert all(told["right"])
    assert len(told["same"]) == 1, "the worker on the other node was left alone, and the others have begun anew"
    assert told["up without the node"] == told["same"]
