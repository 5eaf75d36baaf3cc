"""The keys file of an application that runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.errors import ConfigurationError
from serve_app.config import LiveSettings
from serve_app.edge import Edge
from serve_app.edge.keys import KeyRing
from serve_app.serving import live_keys
from serve_app.serving.live_keys import LiveKeys
from tests.serve_app.edge.apps import client, echo

DEADLINE_S = 5.0
ALICE = "- {tenant: alice, sha256: " + "a" * 64 + ", weight: 3.0}\n"
BOB = "- {tenant: bob, sha256: " + "b" * 64 + "}\n"


class RecordingEdge:
    def __init__(self) -> None:
        self.settings: LiveSettings | None = None
        self.tenants: set[str] | None = None

    def configure(self, settings: LiveSettings, keys: KeyRing | None) -> None:
        self.settings = settings
        self.tenants = None if keys is None else set(keys.weights)


class RecordingDispatcher:
    def __init__(self) -> None:
        self.weights: list[Any] = []
        self.weigh = SimpleNamespace(remote=self.weights.append)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_keys, "KEYS_POLL_S", 0.01)
    monkeypatch.setattr(live_keys, "SETTLE_S", 0.0, raising=False)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def write(file: Path, text: str | None) -> None:
    """None: there is no such file."""
    file.unlink() if text is None else file.write_text(text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(ALICE)
    return path


async def test_a_file_that_changes_is_read_and_one_that_is_broken_changes_nothing(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edge, dispatcher = RecordingEdge(), RecordingDispatcher()
    keys = LiveKeys(LiveSettings(), [edge], lambda: [dispatcher])
    await keys.use(LiveSettings(keys_file=file))
    assert edge.tenants == {"alice"}
    assert dispatcher.weights[-1] == {"alice": 3.0}

    watching = asyncio.create_task(keys.watch())
    write(file, ALICE + BOB)
    await until(lambda: edge.tenants == {"alice", "bob"})
    told = len(dispatcher.weights)
    await until(lambda: len(dispatcher.weights) > told + 3)
    write(file, "- nonsense")
    await until(lambda: "stay as they were" in caplog.text)
    told = len(dispatcher.weights)
    await until(lambda: len(dispatcher.weights) > told + 5)
    assert caplog.text.count("stay as they were") == 1, "said once, not at every look"
    assert edge.tenants == {"alice", "bob"}
    write(file, ALICE)
    await until(lambda: edge.tenants == {"alice"})
    watching.cancel()


@pytest.mark.parametrize("text", ["", "[]", "# nobody\n", None], ids=["empty", "[]", "comment", "deleted"])
async def test_who_removes_the_last_key_lets_nobody_in(file: Path, text: str | None) -> None:
    edge = RecordingEdge()
    keys = LiveKeys(LiveSettings(), [edge], list)
    await keys.use(LiveSettings(keys_file=file))
    watching = asyncio.create_task(keys.watch())
    write(file, text)
    await until(lambda: edge.tenants == set())
    write(file, BOB)
    await until(lambda: edge.tenants == {"bob"})
    watching.cancel()


async def test_without_a_key_left_everybody_is_refused(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not that nobody needs one."""
    edge = Edge(echo)
    keys = LiveKeys(LiveSettings(), [edge], list)
    await keys.use(LiveSettings(keys_file=file, remote_without_keys=True))
    write(file, None)
    await keys.look()
    async with client(edge) as http:
        assert (await http.get("/")).status_code == 401
        assert (await http.get("/", headers={"x-api-key": "a"})).status_code == 401
    assert "everybody is refused" in caplog.text


async def test_the_state_of_the_file_is_told(file: Path) -> None:
    keys = LiveKeys(LiveSettings(), [], list)
    await keys.use(LiveSettings())
    assert keys.state == "none"
    await keys.use(LiveSettings(keys_file=file))
    steps: list[tuple[str | None, str, int, int, int]] = [
        (ALICE, "current", 1, 0, 0),
        (BOB + ALICE, "current", 2, 1, 0),
        ("- nonsense", "broken", 2, 1, 1),
        ("- nonsense", "broken", 2, 1, 1),
        ("- other nonsense", "broken", 2, 1, 2),
        (BOB + ALICE, "current", 2, 2, 2),
        ("[]", "empty", 0, 3, 2),
        (None, "missing", 0, 4, 2),
        ("- nonsense", "broken", 0, 4, 3),
        (BOB, "current", 1, 5, 3),
    ]
    for text, *told in steps:
        write(file, text)
        await keys.look()
        status = keys.status
        assert [status.state, status.keys, status.reloads, status.failed_reloads] == told


async def test_keys_that_may_be_old_say_how_old(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    keys = LiveKeys(LiveSettings(), [], list)
    await keys.use(LiveSettings(keys_file=file))
    for text in (ALICE, "- nonsense"):
        write(file, text)
        now_s += 20.0
        await keys.look()
    assert (keys.status.age_s, keys.state) == (20.0, "broken")
    write(file, ALICE)
    await keys.look()
    assert (keys.status.age_s, keys.state) == (0.0, "current")
    now_s += live_keys.UNSEEN_S + 1.0
    assert keys.state == "broken", "its disk hangs: nobody has seen it for long"


async def test_a_change_that_the_times_of_the_file_do_not_tell_is_seen(file: Path) -> None:
    edge = RecordingEdge()
    keys = LiveKeys(LiveSettings(), [edge], list)
    os.utime(file, ns=(0, 0))
    await keys.use(LiveSettings(keys_file=file))
    write(file, ALICE.replace("alice", "carol"))
    os.utime(file, ns=(0, 0))
    await keys.look()
    assert edge.tenants == {"carol"}


async def test_a_file_that_is_being_written_is_given_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes in place empties it first, and that revokes nobody's key for a second."""
    edge = RecordingEdge()
    keys = LiveKeys(LiveSettings(), [edge], list)
    await keys.use(LiveSettings(keys_file=file))
    pause = asyncio.sleep

    async def written_meanwhile(delay_s: float) -> None:
        write(file, ALICE + BOB)
        await pause(delay_s)

    write(file, "")
    monkeypatch.setattr(asyncio, "sleep", written_meanwhile)
    edge.tenants = None
    await keys.look()
    assert edge.tenants == {"alice", "bob"}
    assert keys.status.reloads == 1


async def test_what_was_seen_of_an_older_setting_does_not_come_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = RecordingEdge()
    keys = LiveKeys(LiveSettings(), [edge], list)
    await keys.use(LiveSettings(keys_file=file))
    other = file.with_name("other.yaml")
    other.write_text(BOB)

    async def set_meanwhile(_: float) -> None:
        await keys.use(LiveSettings(keys_file=other))

    monkeypatch.setattr(asyncio, "sleep", set_meanwhile)
    write(file, "[]")
    await keys.look()
    assert edge.tenants == {"bob"}
    assert edge.settings == LiveSettings(keys_file=other)


async def test_settings_with_a_wrong_file_are_refused_whole(tmp_path: Path) -> None:
    edge = RecordingEdge()
    keys = LiveKeys(LiveSettings(), [edge], list)
    await keys.use(LiveSettings(max_headers=50))
    broken = tmp_path / "broken"
    broken.write_text("- nonsense")
    for wrong in (tmp_path / "nowhere", broken):
        with pytest.raises(ConfigurationError, match=wrong.name):
            await keys.use(LiveSettings(max_headers=60, keys_file=wrong))
    assert edge.settings == LiveSettings(max_headers=50)
    assert keys.state == "none"
