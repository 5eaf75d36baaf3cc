"""One front for all who ask for it on one event loop, opened once, and gone with the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actors.errors import PoolClosed
from actors.front.front import Front
from actors.ray_session import RaySession
from actors.request.prompt import PromptEncoder
from actors.supervisor import Supervisor

CONNECTION_POLL_S = 1.0


class SharedFront:
    """A patient front, opened at the first `get`. Make and use it on one event loop.

    Whoever asks while it is being opened waits for the same opening. One that fails is told to all who wait for it,
    and the next who asks tries again. When the loop ends without `shut_down`, as `asyncio.run` does by cancelling all
    tasks, or the connection to Ray does, the front is shut down and `on_loop_end` is called.
    """

    def __init__(
        self,
        dispatcher: Any,
        *,
        load_encoder: Callable[[str], PromptEncoder] = PromptEncoder.load,
        on_loop_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._dispatcher = dispatcher
        self._load_encoder = load_encoder
        self._on_loop_end = on_loop_end
        self._supervisor = Supervisor("a script's front")
        self._front: Front | None = None
        self._opening: asyncio.Future[Front] | None = None
        self._closed = False
        self._supervisor.start("outlive nothing", _while_connected(RaySession()), on_end=self._base_ended)

    async def get(self) -> Front:
        """:raises ExlpoolError: the front could not be opened.
        :raises PoolClosed: it was shut down."""
        if self._closed:
            raise PoolClosed("The pool is closed.")
        if self._front is not None:
            return self._front
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_future()
            self._supervisor.start("open", self._open(), on_end=self._opened)
        return await asyncio.shield(self._opening)

    async def _open(self) -> None:
        self._front = await Front.open(self._dispatcher, patient=True, load_encoder=self._load_encoder)

    def _opened(self, failure: BaseException | None) -> None:
        opening, self._opening = self._opening, None
        assert opening is not None, "an opening ends once"
        if self._front is not None:
            opening.set_result(self._front)
            return
        opening.set_exception(failure if isinstance(failure, Exception) else PoolClosed("The event loop has ended."))
        opening.exception()  # noted as seen: all who waited may be gone

    def shut_down(self) -> None:
        """Close without waiting, on the loop. What runs, and who waits for the opening, ends with `PoolClosed`."""
        self._closed = True
        self._supervisor.shut_down()
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(PoolClosed("The pool is closed."))
            self._opening.exception()
        if self._front is not None:
            self._front.shut_down()

    async def close(self) -> None:
        """Close, and wait until nothing of it runs any more."""
        self.shut_down()
        await self._supervisor.wait_closed()
        if self._front is not None:
            await self._front.close()

    def _base_ended(self, failure: BaseException | None) -> None:
        """The event loop ends, or the connection to Ray has ended."""
        self.shut_down()
        self._on_loop_end()

    def __repr__(self) -> str:
        return f"<SharedFront: {self._front!r}>" if self._front else "<SharedFront: not open>"


async def _while_connected(session: RaySession) -> None:
    """Ray says nothing of its shutdown to whoever waits for something of it."""
    while True:
        if session.over:
            return
        await asyncio.sleep(CONNECTION_POLL_S)
