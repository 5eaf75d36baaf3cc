"""A log of a scheduler's events: it tells all that there was, and its replay does the same again."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import RunningAttempt
from actors.results import Priority
from actors.scheduling.actions import Action, Refuse, Revoke, Start
from actors.scheduling.config import SchedulerConfig
from actors.scheduling.core import Scheduler
from actors.scheduling.events import (
    Event,
    FrontGone,
    TenantsWeighed,
    Tick,
    WorkerDown,
    WorkerDraining,
    WorkerExpected,
    WorkerLost,
)
from actors.scheduling.recording import (
    _codec,
    decode_event,
    decode_header,
    encode_event,
    encode_header,
    replay,
)
from tests.properties import examples
from tests.scheduling.pool import Pool, admission, pages

KINDS = get_args(Event)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data(), now_s=st.floats())
@examples(30)
def test_every_event_is_read_as_it_was_written(kind: type[Event], data: st.DataObject, now_s: float) -> None:
    event = data.draw(st.from_type(kind))
    line = encode_event(now_s, event)
    assert "\n" not in line
    again_s, again = decode_event(line)
    assert encode_event(again_s, again) == line
    if "NaN" not in line:  # which equals nothing
        assert (again_s, again) == (now_s, event)
    assert type(again) is kind


@given(
    config=st.builds(
        SchedulerConfig,
        policy=st.text(),
        max_wait_s=st.floats(0.1),
        tenant_weights=st.dictionaries(st.text(), st.floats(0.1, 10.0)),
        seed=st.integers(),
    )
)
def test_settings_are_read_as_they_were_written(config: SchedulerConfig) -> None:
    assert decode_header(encode_header(config)) == config


def test_what_is_usual_takes_little_room() -> None:
    assert encode_header(SchedulerConfig()) == '{"scheduler_events": 1, "config": {}}'
    assert encode_event(1.5, Tick()) == '[1.5,"Tick",{}]'


# Replaying.


class RecordedPool(Pool):
    """Whatever its scheduler is told is recorded, and so is what it said."""

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__()
        self.log = [encode_header(config)]
        self.said: list[list[Action]] = []
        self.scheduler = Scheduler(config, lambda now_s, event: self.log.append(encode_event(now_s, event)))

    def handle(self, event: Event, after_s: float = 0.0) -> list[Action]:
        actions = super().handle(event, after_s)
        self.said.append(actions)
        return actions


def recorded_run(policy: str, seed: int, events: int = 700) -> RecordedPool:
    """Crowds, deaths, silences, cancellations and nonsense, by lot."""
    config = SchedulerConfig(policy=policy, seed=seed, max_wait_s=20.0, start_lease_s=5.0, stall_timeout_s=4.0)
    pool, dice = RecordedPool(config), random.Random(seed)
    lives = dict.fromkeys("abc", 1)
    for slot in lives:
        pool.up(slot, total_pages=dice.choice([8, 16]), resident=pages("p"))
    for number in range(events):
        slot = dice.choice("abc")
        worker_id = f"{slot}#{lives[slot]}"
        placed = [r for r in pool.scheduler.state.requests.values() if r.worker is not None]
        match dice.randrange(12):
            case 0 | 1 | 2 | 3:
                pool.submit(
                    f"r{dice.randrange(number + 1)}",
                    dice.randrange(1, 1500),
                    dice.randrange(1, 300),
                    attempt=dice.choice([1, 1, 2]),
                    front_id=dice.choice("fg"),
                    page_hashes=pages("p")[: dice.randrange(2)],
                    priority=dice.choice(list(Priority)),
                    tenant=dice.choice("xy"),
                    timeout_s=dice.choice([None, 3.0]),
                )
            case 4 | 5 | 6 if placed:
                request = dice.choice(placed)
                assert request.worker is not None
                key = request.request_id, request.worker.worker_id
                (pool.finish if dice.random() < 0.6 else pool.run)(*key, attempt=request.admission.attempt)
            case 7 if placed:
                request = dice.choice(placed)
                pool.cancel(request.request_id, request.admission.attempt, request.front_id)
            case 8 if worker_id in pool.scheduler.state.fleet.by_id:
                pool.report(worker_id, lost=dice.randrange(2), full=dice.random() < 0.5, running=())
            case 9 if dice.random() < 0.2:
                lives[slot] += 1
                pool.up(slot, life=lives[slot], running=(RunningAttempt(admission(f"old{number}"), 0),))
            case 10 if dice.random() < 0.3:
                made_up: list[Event] = [
                    WorkerDown(worker_id, "it burned"),
                    WorkerExpected(slot),
                    FrontGone("f"),
                    TenantsWeighed({"x": 2.0}),
                ]
                pool.handle(dice.choice(made_up))
            case _:
                pool.tick(dice.choice([0.1, 0.5, float("nan")]) if dice.random() < 0.1 else 0.2)
                pool.now_s = pool.scheduler.state.now_s
    pool.handle(WorkerDraining(f"b#{lives['b']}"))
    for slot in "abc":
        pool.handle(WorkerLost(slot, "the end"))
    return pool


@pytest.mark.parametrize("policy", ["cost", "power_of_two", "round_robin"])
def test_a_replay_does_the_same_again(policy: str) -> None:
    pool = recorded_run(policy, seed=5)
    again = list(replay(pool.log, validate=True))
    assert [actions for _, _, actions in again] == pool.said
    done = {type(action) for actions in pool.said for action in actions}
    assert {Start, Refuse, Revoke} <= done, "the run was too quiet to show anything"


def test_a_replay_in_another_process_prints_the_same(tmp_path: Path) -> None:
    """Whatever order sets have there."""
    pool = recorded_run("cost", seed=6, events=300)
    file = tmp_path / "events.jsonl"
    file.write_text("".join(line + "\n" for line in pool.log), encoding="utf-8")
    command = [sys.executable, "-m", "actors.scheduling.replay", str(file)]
    printed = [
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    lines = printed[0].splitlines()
    assert [line for line in lines if line.startswith("[")] == pool.log[1:]
    assert [line.strip() for line in lines if line.startswith(" ")] == [str(a) for said in pool.said for a in said]


def test_an_event_is_recorded_before_it_is_handled() -> None:
    """A log of what broke a scheduler ends with what broke it."""
    log: list[object] = []
    scheduler = Scheduler(record=lambda now_s, event: log.append(event))
    with pytest.raises(KeyError):
        scheduler.handle("nonsense", 0.0)  # type: ignore[arg-type]
    assert log == ["nonsense"]


# What cannot be read.


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"scheduler_events": 1}', '{"scheduler_events": 1, "config": {"seed": "x", "y": 1}}']
)
def test_a_file_that_is_no_log_is_told(line: str) -> None:
    with pytest.raises(ValueError, match="no log of a scheduler's events"):
        list(replay([line]))


def test_settings_that_are_wrong_are_told() -> None:
    with pytest.raises(ValueError, match="max_wait_s must be above 0"):
        decode_header('{"scheduler_events": 1, "config": {"max_wait_s": -1}}')


def test_a_log_of_another_version_is_told() -> None:
    with pytest.raises(ValueError, match="version 7; version 1 can be read"):
        decode_header('{"scheduler_events": 7}')


@pytest.mark.parametrize("line", ['[0.1,"Ti', '[0.1,"Tock",{}]', "[]", "7", '[0,"Cancelled",{}]', '[0,"Tick",[1]]'])
def test_a_line_that_cannot_be_read_is_told_after_all_before_it(line: str) -> None:
    steps = replay([encode_header(SchedulerConfig()), encode_event(0.5, Tick()), line])
    assert next(steps) == (0.5, Tick(), [])
    with pytest.raises(ValueError, match=r"Line 3: This is no event"):
        next(steps)


def test_a_field_that_nobody_can_write_down_is_found_at_once() -> None:
    with pytest.raises(TypeError, match="nobody knows how to write it down"):
        _codec(set[int])


# The command.


def test_the_command_prints_events_and_what_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = RecordedPool(SchedulerConfig())
    pool.up()
    pool.submit("r")
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(pool.log), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["replay", str(file)])
    monkeypatch.delitem(sys.modules, "actors.scheduling.replay", raising=False)
    runpy.run_module("actors.scheduling.replay", run_name="__main__")
    up, submitted, started = capsys.readouterr().out.splitlines()
    assert json.loads(up)[:2] == [0.0, "WorkerUp"]
    assert json.loads(submitted)[1] == "Submitted"
    assert started == "    Start(grant=Grant(request_id='r', attempt=1, worker_id='a#1'), front_id='f')"


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    from actors.scheduling.replay import main

    file = tmp_path / "events.jsonl"
    with pytest.raises(SystemExit, match=r"Cannot read .*events.jsonl: No such file"):
        main([str(file)])
    file.write_text(encode_header(SchedulerConfig()) + "\n[1.0", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"events.jsonl: Line 2: This is no event"):
        main([str(file)])
