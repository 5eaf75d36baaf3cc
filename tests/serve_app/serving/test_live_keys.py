"""The keys file of an application that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.errors import ConfigurationError
from serve_app.config import LiveSettings
from serve_app.edge.keys import KeyRing, add_line, entry_line, new_key
from serve_app.serving import live_keys
from serve_app.serving.live_keys import LiveKeys

DEADLINE_S = 5.0


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


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_file_that_changes_is_read_and_one_that_is_broken_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_keys, "KEYS_POLL_S", 0.01)
    file = tmp_path / "keys.yaml"
    add_line(file, entry_line(new_key(), "alice", weight=3.0))
    edge, dispatcher = RecordingEdge(), RecordingDispatcher()
    keys = LiveKeys(LiveSettings(), [edge], lambda: [dispatcher])
    await keys.use(LiveSettings(keys_file=file))
    assert edge.tenants == {"alice"}
    assert dispatcher.weights[-1] == {"alice": 3.0}

    watching = asyncio.create_task(keys.watch())
    add_line(file, entry_line(new_key(), "bob"))
    await until(lambda: edge.tenants == {"alice", "bob"})
    told = len(dispatcher.weights)
    await until(lambda: len(dispatcher.weights) > told + 3)
    good = file.read_text()
    file.write_text("- nonsense")
    await until(lambda: "stay as they were" in caplog.text)
    told = len(dispatcher.weights)
    await until(lambda: len(dispatcher.weights) > told + 5)
    assert caplog.text.count("stay as they were") == 1, "said once, not at every look"
    assert edge.tenants == {"alice", "bob"}
    file.write_text(good.splitlines()[0])
    await until(lambda: edge.tenants == {"alice"})
    watching.cancel()


async def test_settings_with_a_wrong_file_are_refused_whole(tmp_path: Path) -> None:
    edge = RecordingEdge()
    keys = LiveKeys(LiveSettings(), [edge], list)
    await keys.use(LiveSettings(max_headers=50))
    with pytest.raises(ConfigurationError):
        await keys.use(LiveSettings(max_headers=60, keys_file=tmp_path / "nowhere"))
    assert edge.settings == LiveSettings(max_headers=50)
