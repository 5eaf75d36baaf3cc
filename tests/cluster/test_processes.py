"""Processes are ended by number only while they are the ones that were meant."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster import detach
from cluster.processes import descendants, is_same, kill, start_time

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT = f"import subprocess; subprocess.Popen({SLEEP!r}); print(flush=True); import time; time.sleep(600)"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def test_a_later_process_with_the_same_number_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    started = start_time(sleeper.pid)
    assert started is not None
    kill({sleeper.pid: started - 1})
    assert is_same(sleeper.pid, started)
    kill({sleeper.pid: started})
    assert sleeper.wait(timeout=10) != 0
    assert start_time(sleeper.pid) is None
    kill({sleeper.pid: started})


def test_all_processes_below_one_are_found(eventually: Callable[..., None]) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = descendants(parent.pid)
        assert psutil.Process(child).ppid() == parent.pid
        assert {parent.pid, child} <= descendants(os.getpid()).keys()
        kill(descendants(parent.pid))
        eventually(lambda: not descendants(parent.pid))
        parent.kill()


def test_what_is_detached_is_nobodys_child(tmp_path: Path, eventually: Callable[..., None]) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", "import sys, time; print('here', flush=True); time.sleep(600)"]
    done = subprocess.run(
        [sys.executable, "-I", detach.__file__, str(log), *command], stdout=subprocess.PIPE, text=True, check=True
    )
    process = psutil.Process(int(done.stdout))
    try:
        eventually(lambda: log.read_text() == "here\n")
        assert process.pid not in descendants(os.getpid())
        assert os.getsid(process.pid) == process.pid
    finally:
        process.kill()
