"""The keys file of an application that runs: read when the settings change, and again whenever the file does."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from actors.errors import ConfigurationError
from serve_app.config import LiveSettings
from serve_app.edge.keys import KeyRing
from serve_app.edge.keys_file import FoundKeys, look_for_keys
from serve_app.metrics.keys_file import KeysFileState, KeysFileStatus

logger = logging.getLogger("ray.serve.exlpool")

KEYS_POLL_S = 1.0
SETTLE_S = 0.1
"""A file that changes is read when it has had time to be written: who writes in place empties it first."""
UNSEEN_S = 30.0
"""A file that nobody could look at for so long cannot be read: its disk hangs."""


class Configurable(Protocol):
    """What settings and keys come into force in: an edge, or a listener with one."""

    def configure(self, settings: LiveSettings, keys: KeyRing | None) -> None: ...


class LiveKeys:
    """Puts settings and keys into force in all edges, and tells the dispatchers what share of the pool each tenant
    has. `dispatchers` says which there are now.

    A file that is emptied or deleted while the application runs has revoked its keys; one that is broken changes
    nothing, and `status` says so.
    """

    def __init__(
        self, settings: LiveSettings, edges: Sequence[Configurable], dispatchers: Callable[[], list[Any]]
    ) -> None:
        self._settings = settings
        self._edges = edges
        self._dispatchers = dispatchers
        self._keys: KeyRing | None = None
        self._found: FoundKeys | None = None
        self._looked_at_s = self._known_at_s = time.monotonic()
        self._reloads = self._failed_reloads = 0
        self.refused: str | None = None
        """Why the last settings that were asked for are not in force; None: they are."""

    async def use(self, settings: LiveSettings) -> None:
        """:raises ConfigurationError: the keys file is wrong, or not there; then everything stays as it was."""
        path = settings.keys_file
        found = None if path is None else await asyncio.to_thread(look_for_keys, path, None)
        if found is not None and found.fault:
            raise ConfigurationError(found.fault, param="keys_file")
        self._looked_at_s = self._known_at_s = time.monotonic()
        self._put_into_force(settings, found, None if found is None else found.keys)
        self.refused = None

    async def watch(self) -> None:
        """Look at the file again and again, for ever."""
        while True:
            await asyncio.sleep(KEYS_POLL_S)
            self.weigh()  # again and again: a dispatcher that was restarted has forgotten it
            await self.look()

    async def look(self) -> None:
        """Bring into force what the file says now."""
        path, last = self._settings.keys_file, self._found
        if path is None:
            return
        found = await asyncio.to_thread(look_for_keys, path, last)
        if found is not last:
            await asyncio.sleep(SETTLE_S)
            found = await asyncio.to_thread(look_for_keys, path, last)
        if self._settings.keys_file != path or self._found is not last:
            return  # `use` was quicker; what was seen here is of older settings, or older than what it saw
        self._looked_at_s = time.monotonic()
        if found.keys is not None:
            self._known_at_s = self._looked_at_s
        if found is not last:
            self._take(found)

    def _take(self, found: FoundKeys) -> None:
        if found.keys is None:
            self._found = found
            self._failed_reloads += 1
            logger.error("The keys stay as they were: %s", found.fault)
            return
        self._put_into_force(self._settings, found, found.keys)
        self._reloads += 1
        logger.info("The keys were read anew")

    def _put_into_force(self, settings: LiveSettings, found: FoundKeys | None, keys: KeyRing | None) -> None:
        # Nothing is awaited here, so no request sees the settings of one file with the keys of another.
        self._settings, self._found, self._keys = settings, found, keys
        for edge in self._edges:
            edge.configure(settings, keys)
        self.weigh()
        if found is not None and found.state in ("empty", "missing"):
            logger.warning("No key is valid, so everybody is refused: %s is %s", settings.keys_file, found.state)

    def weigh(self) -> None:
        """Nobody waits for the answers: a dispatcher that does not hear it now is told again."""
        if self._keys is not None:
            for dispatcher in self._dispatchers():
                dispatcher.weigh.remote(self._keys.weights)

    @property
    def state(self) -> KeysFileState:
        if self._found is None:
            return "none"
        return "broken" if time.monotonic() - self._looked_at_s > UNSEEN_S else self._found.state

    @property
    def status(self) -> KeysFileStatus:
        return KeysFileStatus(
            state=self.state,
            keys=0 if self._keys is None else len(self._keys.entries),
            age_s=time.monotonic() - self._known_at_s,
            reloads=self._reloads,
            failed_reloads=self._failed_reloads,
        )

    def __repr__(self) -> str:
        keys = "none" if self._keys is None else len(self._keys.entries)
        return f"<LiveKeys of {self._settings.keys_file}: {keys}, {self.state}>"
