"""The keys file of an application that runs: read when the settings change, and again whenever the file does."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from actors.errors import ConfigurationError
from serve_app.config import LiveSettings
from serve_app.edge.keys import KeyRing, load_keys

logger = logging.getLogger("ray.serve.exlpool")

KEYS_POLL_S = 1.0


class Configurable(Protocol):
    """What settings and keys come into force in: an edge, or a listener with one."""

    def configure(self, settings: LiveSettings, keys: KeyRing | None) -> None: ...


class LiveKeys:
    """Puts settings and keys into force in all edges, and tells the dispatchers what share of the pool each tenant
    has. `dispatchers` says which there are now."""

    def __init__(
        self, settings: LiveSettings, edges: Sequence[Configurable], dispatchers: Callable[[], list[Any]]
    ) -> None:
        self._settings = settings
        self._edges = edges
        self._dispatchers = dispatchers
        self._keys: KeyRing | None = None
        self._stamp: object = None

    async def use(self, settings: LiveSettings) -> None:
        """:raises ConfigurationError: the keys file is wrong; then everything stays as it was."""
        stamp = await asyncio.to_thread(_stamp, settings)
        path = settings.keys_file
        keys = None if path is None else await asyncio.to_thread(load_keys, path)
        # From here to the end nothing is awaited, so no request sees the settings of one file with the keys of another.
        self._settings, self._stamp, self._keys = settings, stamp, keys
        for edge in self._edges:
            edge.configure(settings, keys)
        self.weigh()

    async def watch(self) -> None:
        """Read the file anew whenever it changes, for ever."""
        refused: object = None
        while True:
            await asyncio.sleep(KEYS_POLL_S)
            self.weigh()  # again and again: a dispatcher that was restarted has forgotten it
            stamp = await asyncio.to_thread(_stamp, self._settings)
            if stamp == self._stamp:
                continue
            try:
                await self.use(self._settings)
                logger.info("The keys were read anew")
            except ConfigurationError as error:
                if stamp != refused:  # it is tried again, but said once
                    logger.error("The keys stay as they were: %s", error.message)
                refused = stamp

    def weigh(self) -> None:
        """Nobody waits for the answers: a dispatcher that does not hear it now is told again."""
        if self._keys is not None:
            for dispatcher in self._dispatchers():
                dispatcher.weigh.remote(self._keys.weights)

    def __repr__(self) -> str:
        keys = "none" if self._keys is None else len(self._keys.entries)
        return f"<LiveKeys of {self._settings.keys_file}: {keys}>"


def _stamp(settings: LiveSettings) -> object:
    """Changes when the keys file does."""
    path = settings.keys_file
    if path is None:
        return None
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return (path, state.st_mtime_ns, state.st_size, state.st_ino)
