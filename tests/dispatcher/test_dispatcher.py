"""The dispatcher's actor: what breaks inside it ends its process, and what its scheduler was told can be run again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from actors import Pool
from actors.config import PoolConfig, pool_config
from actors.dispatcher.dispatcher import Dispatcher
from actors.dispatcher.event_log import EventLog
from actors.scheduling.actions import Start
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.events import Event, Submitted, Tick, WorkerExpected
from actors.scheduling.recording import replay
from tests.scheduling.pool import admission

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

WAIT_S = 30.0


class BreakableDispatcher(Dispatcher):
    """A dispatcher without workers, whose scheduler can be broken."""

    def __init__(self, config: PoolConfig) -> None:
        super().__init__(config, "nowhere", ())

    async def pid(self) -> int:
        return os.getpid()

    async def break_scheduler(self) -> None:
        def handle(*_: Any) -> Any:
            raise AssertionError("an invariant is broken")

        self._scheduler.handle = handle  # type: ignore[assignment, method-assign]


@pytest.fixture
def breakable() -> Any:
    options = ray.remote(BreakableDispatcher).options(num_cpus=0, max_restarts=-1)
    actor: Any = options.remote(pool_config(name="breaking", engine="simulated"))
    yield actor
    ray.kill(actor)


def pid_of(actor: Any) -> int | None:
    """Of the life that answers; None while none does."""
    try:
        pid: int = ray.get(actor.pid.remote(), timeout=WAIT_S)
    except RayActorError:
        return None
    return pid


def test_a_scheduler_that_fails_ends_the_process_and_a_clean_one_begins(
    breakable: Any, eventually: Callable[..., None]
) -> None:
    """Its clock hears of it first, within a tick."""
    before = pid_of(breakable)
    ray.get(breakable.break_scheduler.remote(), timeout=WAIT_S)
    eventually(lambda: pid_of(breakable) not in (None, before))
    ray.get(breakable.weigh.remote({"a": 2.0}), timeout=WAIT_S)


def test_a_pool_s_run_can_be_replayed_from_its_log(tmp_path: Path, eventually: Callable[..., None]) -> None:
    with Pool.start(name="logged", engine="simulated", event_log=tmp_path, simulated={"step_s": 0.001}) as pool:
        result = ray.get(pool.generate.remote((10, 11, 12), max_new_tokens=4), timeout=WAIT_S)
        (file,) = tmp_path.glob("logged-*.events.jsonl")
        eventually(lambda: '"Cancelled"' in file.read_text() or file.read_text().count('"finished":[{') > 0)
        lines = file.read_text().splitlines()
    replayed = [(event, actions) for _, event, actions in replay(lines[:-1], validate=True)]
    granted = [action for _, actions in replayed for action in actions if isinstance(action, Start)]
    assert [action.grant.request_id for action in granted] == [result.request_id]
    assert granted[0].grant.worker_id == result.worker_id


def test_a_log_of_events_ends_where_the_disk_cannot_take_it_and_the_pool_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    log = EventLog(tmp_path / "file", "pool", SchedulerConfig())
    log.record(1.0, Tick())
    log.flush()
    assert "ended" in repr(log)


def test_a_log_of_events_holds_what_was_told_in_order(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "new" / "folder", "pool", SchedulerConfig(seed=3))
    events: list[Event] = [WorkerExpected("a"), Submitted(admission("r"), "front"), Tick()]
    for at, event in enumerate(events):
        log.record(float(at), event)
    log.flush()
    told = [(now_s, event) for now_s, event, _ in replay(log.path.read_text().splitlines())]
    assert told == [(float(at), event) for at, event in enumerate(events)]
