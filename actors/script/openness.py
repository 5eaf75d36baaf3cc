"""Whether a pool can still be used from this process."""

from __future__ import annotations

from actors.errors import PoolClosed
from actors.ray_session import RaySession


class Openness:
    """Open until `close`, or until this process's connection to Ray ends."""

    def __init__(self) -> None:
        self._session = RaySession()
        self.closed = False

    def close(self) -> None:
        self.closed = True

    @property
    def cut_off(self) -> bool:
        """The connection to Ray has ended, and everything of the pool that was this process's with it."""
        return self._session.over

    def require(self) -> None:
        """:raises PoolClosed: it was closed, or the connection has ended."""
        if self.closed:
            raise PoolClosed("The pool is closed.")
        self._session.require()

    def __repr__(self) -> str:
        return "closed" if self.closed else "cut off" if self.cut_off else "open"
