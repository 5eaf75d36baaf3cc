"""Keys files in every state in which people, editors, scripts and `exlpool keys` can leave them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from actors.errors import ConfigurationError
from cluster.cli import keys as cli
from serve_app.config import LiveSettings
from serve_app.edge import Edge
from serve_app.edge.keys import KeyEntry, digest_of, new_entry, new_key
from serve_app.edge.keys_changes import add_key, key_of_fingerprint, revoke_keys
from serve_app.edge.keys_file import load_keys
from serve_app.serving import live_keys
from serve_app.serving.live_keys import LiveKeys
from tests.fuzzing.keys_file_edits import TENANTS, Meaning, edit, put, some_keys, written
from tests.serve_app.edge.apps import Exchange, echo, part

CLAIM = (
    "after every look at the file exactly its keys are let in, while it is broken those before, which is told; a "
    "server starts with every file that the command line has written"
)
MAX_STEPS = 16
REFUSED, SERVED = 401, 200


class Case:
    """A keys file, the edge of a server that follows it, and what should be true of both."""

    def __init__(self, random: Random, directory: Path) -> None:
        self.random = random
        self.path = directory / "keys.yaml"
        self.keys = [new_key() for _ in range(random.randint(1, 5))]
        """Every key that was ever made."""
        self.meaning: Meaning = some_keys(random, self.keys)
        put(self.path, written(random, self.meaning or ()))
        self.edge = Edge(echo)
        self.live = LiveKeys(LiveSettings(), [self.edge], list)
        self.steps: list[str] = []

    async def run(self) -> str:
        settings = LiveSettings(keys_file=self.path, access_log=False)
        await self.live.use(settings)
        in_force = self.meaning or ()
        for _ in range(self.random.randint(1, MAX_STEPS)):
            self.step()
            if self.random.random() < 0.2:
                continue  # and one more change before the server looks
            await self.live.look()
            in_force = in_force if self.meaning is None else self.meaning
            await self.check(in_force)
        await self.check_start(settings)
        return "broken at the end" if self.meaning is None else "whole at the end"

    def step(self) -> None:
        commands = (self.new, self.revoke_one, self.revoke_tenant, self.change_at_once)
        if self.random.random() < 0.4:
            command = self.random.choice(commands)
            self.steps.append(command.__name__)
            command()
        else:
            name, self.meaning = edit(self.random, self.path, self.keys, self.meaning)
            self.steps.append(name)

    async def check(self, in_force: tuple[KeyEntry, ...]) -> None:
        state = self.live.state
        assert (state == "broken") == (self.meaning is None), f"{state} after {self.steps}"
        assert (state in ("empty", "missing")) == (self.meaning == ()), f"{state} after {self.steps}"
        assert self.live.status.keys == len(in_force), self.steps
        digests = {entry.sha256 for entry in in_force}
        for key in (*self.keys, "exl-nobody", ""):
            should = SERVED if digest_of(key) in digests else REFUSED
            got = await Exchange([part(b"", more=False)], [(b"x-api-key", key.encode())]).run(self.edge)
            assert got == should, f"a key gets {got}, not {should}, after {self.steps}"

    async def check_start(self, settings: LiveSettings) -> None:
        """What a server does that starts now."""
        started = LiveKeys(LiveSettings(), [self.edge], list)
        try:
            await started.use(settings)
        except ConfigurationError:
            assert self.meaning is None or not self.path.exists(), self.steps
        else:
            assert self.meaning is not None, self.steps
            await self.check_written()

    async def check_written(self) -> None:
        assert load_keys(self.path).entries == self.meaning, self.steps

    # What `exlpool keys` does.

    def new(self) -> None:
        tenant, weight = self.random.choice(TENANTS), self.random.choice((None, None, 1.0, 2.0))
        before = self.content()
        weights = {entry.tenant: entry.weight for entry in self.meaning or ()}
        try:
            key = said_by(lambda: cli.new_key(tenant, weight=weight, file=self.path)).strip()
        except ConfigurationError:
            contradicts = weight is not None and weights.get(tenant, weight) != weight
            assert self.meaning is None or contradicts, self.steps
            assert self.content() == before, f"a refused command changed the file, after {self.steps}"
            return
        assert self.meaning is not None, self.steps
        self.keys.append(key)
        options = {} if weight is None else {"weight": weight}
        entry = new_entry(key, tenant, **{"weight": weights.get(tenant, 1.0), **options})
        self.meaning = (*self.meaning, entry)
        assert load_keys(self.path).entries == self.meaning, self.steps

    def revoke_one(self) -> None:
        wanted = digest_of(self.random.choice(self.keys))[: self.random.choice((4, 5, 12, 64))]
        meant = [entry for entry in self.meaning or () if entry.sha256.startswith(wanted)]
        self.revoke(wanted, None, meant if len(meant) == 1 else [])

    def revoke_tenant(self) -> None:
        tenant = self.random.choice(TENANTS)
        self.revoke(None, tenant, [entry for entry in self.meaning or () if entry.tenant == tenant])

    def revoke(self, fingerprint: str | None, tenant: str | None, meant: list[KeyEntry]) -> None:
        before = self.content()
        try:
            said_by(lambda: cli.revoke(fingerprint, tenant=tenant, file=self.path))
        except ConfigurationError:
            assert not meant, self.steps
            assert self.content() == before, f"a refused command changed the file, after {self.steps}"
            return
        assert meant, self.steps
        self.meaning = tuple(entry for entry in self.meaning or () if entry not in meant)
        assert load_keys(self.path).entries == self.meaning, self.steps

    def change_at_once(self) -> None:
        """Several commands at the same time: each of them counts."""
        if self.meaning is None or not self.path.is_file():
            return
        gone = self.random.sample(self.meaning, self.random.randint(0, min(3, len(self.meaning))))
        added = [new_entry(new_key(), f"at once {number}") for number in range(self.random.randint(0, 3))]
        with ThreadPoolExecutor(6) as threads:
            adding = [threads.submit(add_key, self.path, entry) for entry in added]
            revoking = [threads.submit(revoke_by_fingerprint, self.path, entry) for entry in gone]
            assert [done.result() for done in adding] == added, self.steps
            assert [done.result() for done in revoking] == [[entry] for entry in gone], self.steps
        left = [entry for entry in self.meaning if entry not in gone]
        entries = load_keys(self.path).entries
        assert list(entries[: len(left)]) == left, self.steps
        assert sorted(entry.tenant for entry in entries[len(left) :]) == [entry.tenant for entry in added], self.steps
        self.meaning = entries

    def content(self) -> object:
        if not self.path.is_file():
            return self.path.is_dir()
        return self.path.read_bytes()


def revoke_by_fingerprint(path: Path, entry: KeyEntry) -> list[KeyEntry]:
    return revoke_keys(path, lambda ring: [key_of_fingerprint(ring, entry.sha256)])


def said_by(command: Callable[[], None]) -> str:
    """What a command prints; what it says on standard error is for people."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        command()
    return said.getvalue()


async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
    """In the place of `asyncio.to_thread`: threads would take most of the time, and nobody waits here."""
    return function(*arguments)


def try_case(random: Random) -> str:
    def token(size: int) -> str:
        return base64.urlsafe_b64encode(random.randbytes(size)).decode().rstrip("=")

    with (
        TemporaryDirectory() as directory,
        mock.patch.object(asyncio, "to_thread", at_once),
        mock.patch.object(secrets, "token_urlsafe", token),
        mock.patch.object(live_keys, "SETTLE_S", 0.0),
        mock.patch.object(live_keys.logger, "level", logging.CRITICAL),
    ):
        return asyncio.run(Case(random, Path(directory)).run())
