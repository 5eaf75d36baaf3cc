"""A replica's link to the book of rates, which all replicas of the front share.

What the requests of one turn of the event loop ask goes into one message, and one message is under way at a time: so
everything arrives in its order. While nobody answers, requests are not held up: the replica decides by a book of its
own, with its share of every rate, and what is over is told when somebody answers again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from actors.supervisor import Supervisor
from serve_app.edge.rate_book import Enter, RateBook, RateCall, Reserve, Settle, Verdict

logger = logging.getLogger("ray.serve.exlpool")

ANSWER_S = 1.0
"""So long an answer may take; then the replica decides."""
RETRY_S = 1.0
MAX_KEPT = 65_536
"""Settlements that wait while nobody hears them; a reservation whose settlement is lost counts as used."""

FindHome = Callable[[], Awaitable[Any]]
"""Finds the actor whose method `rates` answers, and waits as long as there is none."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A call, and who waits for the verdict on it; nobody waits for that on a settlement."""

    call: RateCall
    verdict: asyncio.Future[Verdict | None] | None = None


class RateLink:
    """`Rates` that are kept elsewhere. `start` it on the event loop that asks."""

    def __init__(self, find_home: FindHome, *, replicas: int) -> None:
        """`replicas` is how many there may be, to each of which belongs an equal share."""
        self._find_home = find_home
        self._own = RateBook(shares=replicas)
        self._connected = False
        self._waiting: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._tasks = Supervisor("rates")

    def start(self) -> None:
        self._tasks.start("asking", self._run(), on_end=self._ended)

    def shut_down(self) -> None:
        self._tasks.shut_down()

    async def ask(self, call: Enter | Reserve) -> Verdict:
        """Within `ANSWER_S`, or twice that behind a message that is under way."""
        if not self._connected:
            return self._decide(call)
        waiting = _Waiting(call, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._news.set()
        assert waiting.verdict is not None
        verdict = await waiting.verdict
        assert verdict is not None, "only a settlement has none"
        return verdict

    def tell(self, call: Settle) -> None:
        """To both books: the tokens may have been reserved in either."""
        self._own.answer([call], time.monotonic())
        if self._connected or len(self._waiting) < MAX_KEPT:
            self._waiting.append(_Waiting(call))
        self._news.set()

    async def _run(self) -> None:
        """For ever: talk to the home for as long as it answers, then look for it anew."""
        said = False
        while True:
            home = await self._find_home()
            try:
                await self._exchange(home)
                self._connected, said = True, False
                while True:
                    await self._news.wait()
                    await self._exchange(home)
            except (RayError, TimeoutError) as error:
                if not said:
                    logger.error("Each replica holds keys to its share of their rates now: %r", error)
                said = True
            finally:
                self._connected = False
                self._decide_all()
            await asyncio.sleep(RETRY_S)

    async def _exchange(self, home: Any) -> None:
        """Tell and ask all that waits.

        :raises RayError, TimeoutError: no answer came; everything still waits.
        """
        self._news.clear()
        async with asyncio.timeout(ANSWER_S):
            verdicts = await home.rates.remote([waiting.call for waiting in self._waiting])
        for verdict in verdicts:
            future = self._waiting.popleft().verdict
            if future is not None and not future.done():
                future.set_result(verdict)

    def _decide_all(self) -> None:
        """What waits to be told goes on waiting; who waits for a verdict does not."""
        kept = deque[_Waiting]()
        for waiting in self._waiting:
            if isinstance(waiting.call, Settle):
                kept.append(waiting)
            elif waiting.verdict is not None and not waiting.verdict.done():
                waiting.verdict.set_result(self._decide(waiting.call))
        self._waiting = kept

    def _decide(self, call: Enter | Reserve) -> Verdict:
        (verdict,) = self._own.answer([call], time.monotonic())
        assert verdict is not None, "only a settlement has none"
        return verdict

    def _ended(self, failure: BaseException | None) -> None:
        logger.error("Each replica holds keys to its share of their rates from now on", exc_info=failure)

    def __repr__(self) -> str:
        return f"<RateLink: {'connected' if self._connected else 'alone'}, {len(self._waiting)} calls wait>"
