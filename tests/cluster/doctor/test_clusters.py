"""`exlpool doctor --address` on clusters of its own: one with a node that hangs, one of an administrator."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.doctor.judge_system import WANTED_VARIABLES
from tests.cluster.commands import run_commands
from tests.cluster.heads import environment_at, head_node
from tests.processes import marked_environment

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[3]
PROGRAM_S = 240.0


@pytest.mark.timeout(PROGRAM_S + 30.0)
def test_a_node_that_hangs_is_told_and_the_other_answers(mark: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.doctor.silent_node"],
        cwd=ROOT,
        env=marked_environment(mark),
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["before"] == ["", ""]
    assert told["after"][0] == ""
    assert re.match("it did not answer within 8 s|the task on it failed: ", told["after"][1])


@pytest.mark.timeout(PROGRAM_S + 30.0)
def test_a_cluster_that_somebody_else_has_started_is_looked_at(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by `ray start`, with a token: nothing is missing, and what our own clusters find set is advised."""
    for name in WANTED_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder, head_node(mark, Path(folder)) as head:
        environment = environment_at(head.home, mark)
        (done,) = run_commands([["doctor", "--address", head.address, "--no-gpu"]], environment)
    told = " ".join(done.out.split())
    assert done.status == 0, done.out + done.err
    assert "environment warning" in told
    assert "RAY_health_check_period_ms=1000 before `ray start`" in told
    assert "torch ok" in told
