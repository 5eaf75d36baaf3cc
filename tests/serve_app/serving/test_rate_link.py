"""Replicas that share the book of rates, and what becomes of them when nobody keeps it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from serve_app.edge.rate_book import Enter, KeyRates, RateBook, RateCall, Reserve, Settle, Verdict
from serve_app.serving import rate_link
from serve_app.serving.rate_link import RateLink

LIMIT = 120
RATES = KeyRates("alice", None, LIMIT)
DEADLINE_S = 5.0


class Home:
    """Answers, hangs or is dead, as it is told."""

    def __init__(self) -> None:
        self.book = RateBook()
        self.messages: list[Sequence[RateCall]] = []
        self.hangs = self.dead = False
        self.rates = SimpleNamespace(remote=self._answer)

    async def _answer(self, calls: Sequence[RateCall]) -> list[Verdict | None]:
        await asyncio.sleep(0)
        if self.dead:
            raise ActorDiedError
        if calls:
            self.messages.append(calls)
        verdicts = self.book.answer(calls, time.monotonic())
        if self.hangs:  # it has heard it, and its answer is lost
            await asyncio.Event().wait()
        return verdicts

    @property
    def left(self) -> float:
        (verdict,) = self.book.answer([Enter(RATES)], time.monotonic())
        assert verdict is not None
        assert verdict.tokens is not None
        return verdict.tokens.remaining


@asynccontextmanager
async def linked(homes: list[Home], replicas: int = 2) -> AsyncIterator[RateLink]:
    """A link to the last of the homes, which has been connected."""

    async def find() -> Any:
        return homes[-1]

    link = RateLink(find, replicas=replicas)
    link.start()
    try:
        await until_connected(link)
        yield link
    finally:
        link.shut_down()


async def until_connected(link: RateLink, connected: bool = True) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while ("connected" in repr(link)) is not connected:
            await asyncio.sleep(0)


async def granted(link: RateLink, ticket: str, tokens: int = 20) -> bool:
    async with asyncio.timeout(DEADLINE_S):
        return (await link.ask(Reserve(RATES, ticket.encode(), tokens))).refused_by is None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_link, "ANSWER_S", 0.05)
    monkeypatch.setattr(rate_link, "RETRY_S", 0.0)


@pytest.mark.parametrize("replicas", [1, 2, 5])
async def test_a_rate_holds_over_all_replicas(replicas: int) -> None:
    home = Home()
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(linked([home])) for _ in range(replicas)]
        asked = (granted(links[number % replicas], str(number)) for number in range(60))
        assert sum(await asyncio.gather(*asked)) == 6
        assert len(home.messages) <= 2 * replicas, "what is asked together goes together"


async def test_what_was_given_back_is_there_for_the_next_who_asks() -> None:
    async with linked([Home()]) as link:
        for number in range(20):
            assert await granted(link, str(number), LIMIT)
            link.tell(Settle("alice", str(number).encode(), 0))


async def test_one_who_stops_asking_gives_back_what_he_was_granted() -> None:
    home = Home()
    async with linked([home]) as link:
        asking = asyncio.ensure_future(granted(link, "a", LIMIT))
        await asyncio.sleep(0)
        asking.cancel()
        link.tell(Settle("alice", b"a", 0))
        assert await granted(link, "b", LIMIT)


@pytest.mark.parametrize("fault", ["hangs", "dead"])
async def test_without_a_home_each_replica_gives_its_share(fault: str) -> None:
    home = Home()
    async with linked([home]) as link:
        setattr(home, fault, True)
        assert [await granted(link, str(number)) for number in range(5)] == [True] * 3 + [False] * 2
        await until_connected(link, connected=False)
        for number in range(3):
            link.tell(Settle("alice", str(number).encode(), 0))
        assert await granted(link, "again"), "its own reservations are settled"
        setattr(home, fault, False)
        await until_connected(link)
        assert home.left == LIMIT, "what was granted and not heard was given back"
        assert await granted(link, "whole", LIMIT)


async def test_a_home_that_comes_anew_is_found() -> None:
    homes = [Home()]
    async with linked(homes) as link:
        assert await granted(link, "a", LIMIT)
        homes[0].dead = True
        homes.append(Home())
        await granted(link, "b")
        await until_connected(link)
        assert await granted(link, "c", LIMIT)


async def test_settlements_that_nobody_hears_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_link, "MAX_KEPT", 10)
    home = Home()
    async with linked([home]) as link:
        home.dead = True
        await granted(link, "a")
        await until_connected(link, connected=False)
        for number in range(100):
            link.tell(Settle("alice", str(number).encode(), 0))
        home.dead = False
        await until_connected(link)
        assert len(home.messages[-1]) <= 10
