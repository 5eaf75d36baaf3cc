"""An engine in a process of its own: it says what it would say on a thread, and neither process outlives the other."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from actors.config import EngineConfig
from actors.engines.simulated import expected_tokens
from actors.errors import FatalEngineError, InvalidRequest, ModelError
from actors.messages import LoadProgress, WorkerLimits
from actors.results import FinishReason
from actors.worker.commands import Cancel, Inspect, Stop, Submit
from actors.worker.engine_process import EngineProcess, _needs_own_process
from tests.worker.harness import PROMPT, WAIT_S, request

OWNER = """
import sys, threading
from actors.config import EngineConfig
from actors.worker.engine_process import EngineProcess
ready = threading.Event()
process = EngineProcess(EngineConfig(engine="simulated"), on_progress=print, on_loaded=lambda limits: ready.set(),
                        on_news=print, on_end=print)
process.start()
ready.wait()
print("PID", process.pid, flush=True)
threading.Event().wait()
"""


class Owner:
    """An engine's process, and what it told."""

    def __init__(self, **simulated: Any) -> None:
        self.progress: list[LoadProgress] = []
        self.tokens: dict[int, list[int]] = {}
        self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        config = EngineConfig(engine="simulated", cache_tokens=8192, max_batch_size=8, simulated=simulated)
        self.process = EngineProcess(
            config,
            on_progress=self.progress.append,
            on_loaded=self.arrived.put,
            on_news=self.arrived.put,
            on_end=self.ends.put,
        )
        self.process.start()

    def loaded(self) -> WorkerLimits:
        limits = self.arrived.get(timeout=WAIT_S)
        assert isinstance(limits, WorkerLimits)
        return limits

    def until_finished(self, ticket: int) -> Any:
        while True:
            news = self.arrived.get(timeout=WAIT_S)
            for columns in news.outputs.values():
                output = columns.message()
                for each, token_ids in zip(output.tickets, output.token_ids, strict=True):
                    self.tokens.setdefault(each, []).extend(token_ids)
                for each, finished in output.finished:
                    if each == ticket:
                        return finished


@pytest.fixture
def own() -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def start(**simulated: Any) -> Owner:
        owners.append(Owner(**simulated))
        return owners[-1]

    yield start
    for owner in owners:
        owner.process.send(Stop())
        assert owner.process.join(WAIT_S)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_request_comes_back_from_another_process(own: Callable[..., Owner], eventually: Callable[..., None]) -> None:
    owner = own(step_s=0.001)
    assert owner.loaded().engine == "simulated"
    assert owner.process.pid != os.getpid()
    owner.process.send(Submit("front", request(7, tokens=30)))
    finished = owner.until_finished(7)
    assert (finished.reason, finished.completion_tokens) == (FinishReason.LENGTH, 30)
    assert tuple(owner.tokens[7]) == expected_tokens(PROMPT, 30)
    assert owner.progress[-1].done == owner.progress[-1].total
    eventually(lambda: (owner.process.steps, owner.process.turn_began_at_s) == (30, None))


def test_refusals_and_cancellations_cross_too(own: Callable[..., Owner]) -> None:
    owner = own(step_s=0.005)
    owner.loaded()
    owner.process.send(Submit("front", request(1, tokens=100_000)))
    assert isinstance(owner.until_finished(1).error, InvalidRequest)
    owner.process.send(Submit("front", request(2, tokens=2000)))
    owner.process.send(Cancel("front", 2))
    assert owner.until_finished(2).reason is FinishReason.CANCELLED
    owner.process.send(Inspect())
    assert owner.arrived.get(timeout=WAIT_S).truth is not None


def test_a_step_that_hangs_can_be_seen_from_here(own: Callable[..., Owner], eventually: Callable[..., None]) -> None:
    owner = own(step_s=0.001, stall_at_step=3)
    owner.loaded()
    owner.process.send(Submit("front", request(1)))
    eventually(lambda: owner.process.steps == 2 and owner.process.turn_began_at_s is not None)
    started_at_s = owner.process.turn_began_at_s
    assert started_at_s is not None
    assert 0 <= time.monotonic() - started_at_s < WAIT_S
    os.kill(owner.process.pid, signal.SIGKILL)


def test_a_process_that_was_stopped_between_steps_can_be_told_from_one_that_waits(
    own: Callable[..., Owner], eventually: Callable[..., None]
) -> None:
    owner = own(step_s=0.001)
    owner.process.send(Inspect())
    assert owner.process.turn_began_at_s is None, "while it loads, nobody expects it to listen"
    owner.loaded()
    eventually(lambda: owner.process.turn_began_at_s is None)
    os.kill(owner.process.pid, signal.SIGSTOP)
    assert owner.process.turn_began_at_s is None, "nothing was asked of it"
    asked_at_s = time.monotonic()
    owner.process.send(Submit("front", request(1)))
    owner.process.send(Cancel("front", 99))
    began_at_s = owner.process.turn_began_at_s
    assert began_at_s is not None
    assert asked_at_s <= began_at_s <= time.monotonic()
    os.kill(owner.process.pid, signal.SIGCONT)
    owner.until_finished(1)
    eventually(lambda: owner.process.turn_began_at_s is None)


def test_a_process_that_dies_is_told_of_as_a_fatal_end(own: Callable[..., Owner]) -> None:
    owner = own(step_s=0.001, exit_at_step=2)
    owner.loaded()
    owner.process.send(Submit("front", request(1)))
    failure = owner.ends.get(timeout=WAIT_S)
    assert isinstance(failure, FatalEngineError)
    assert "exit code" in str(failure)


def test_a_killed_process_is_told_of_by_the_name_of_the_signal(own: Callable[..., Owner]) -> None:
    owner = own()
    owner.loaded()
    os.kill(owner.process.pid, signal.SIGKILL)
    assert "SIGKILL" in str(owner.ends.get(timeout=WAIT_S))


def test_a_model_that_cannot_be_loaded_is_told_with_its_own_error(own: Callable[..., Owner]) -> None:
    assert isinstance(own(fail_load=True).ends.get(timeout=WAIT_S), ModelError)


def test_stopping_ends_the_process(own: Callable[..., Owner]) -> None:
    owner = own()
    owner.loaded()
    owner.process.send(Stop())
    assert owner.ends.get(timeout=WAIT_S) is None
    assert owner.process.join(WAIT_S)
    assert gone(owner.process.pid)


def test_a_killed_owner_takes_its_engine_along(eventually: Callable[..., None]) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        line = next(line for line in owner.stdout if line.startswith("PID"))
        pid = int(line.split()[1])
        assert not gone(pid)
        owner.kill()
        eventually(lambda: gone(pid))


def test_only_engines_that_hold_the_interpreter_get_a_process() -> None:
    assert not _needs_own_process(EngineConfig(engine="simulated"))
    assert not _needs_own_process(EngineConfig(engine="cpu"))
