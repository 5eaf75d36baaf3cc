"""What one request has to do with the rates of its key: it comes, reserves its tokens, and gives back the rest."""

from __future__ import annotations

import math
import secrets
import time
from typing import Protocol

from serve_app.edge.errors import ExceedsRate, RateLimited
from serve_app.edge.rate_book import REQUESTS, Enter, KeyRates, RateBook, Reserve, Settle, Verdict
from serve_app.edge.rates import RateState

RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{rate}" for rate in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)
TICKET_BYTES = 12


class Rates(Protocol):
    """Where the rates of all keys are kept."""

    async def ask(self, call: Enter | Reserve) -> Verdict:
        """Answers in bounded time, whatever happens."""
        ...

    def tell(self, call: Settle) -> None:
        """Later than every call that was asked before."""
        ...


class OwnRates:
    """Kept in this process alone."""

    def __init__(self) -> None:
        self._book = RateBook()

    async def ask(self, call: Enter | Reserve) -> Verdict:
        (verdict,) = self._book.answer([call], time.monotonic())
        assert verdict is not None, "only a settlement has none"
        return verdict

    def tell(self, call: Settle) -> None:
        self._book.answer([call], time.monotonic())

    def __repr__(self) -> str:
        return f"<OwnRates: {self._book!r}>"


class RateTicket:
    """One request of a key that has rates. Whoever makes it closes it, whichever way the request ends."""

    def __init__(self, home: Rates, rates: KeyRates) -> None:
        self._home = home
        self._rates = rates
        self._ticket = secrets.token_bytes(TICKET_BYTES)
        self._reserved = False
        self._verdict = Verdict()
        self.used_tokens = 0
        """What it has taken by its end."""

    async def enter(self) -> None:
        """:raises RateLimited: too many requests."""
        if self._rates.requests is None:
            return  # nothing to ask
        self._verdict = await self._home.ask(Enter(self._rates))
        self._raise_if_refused(1)

    async def reserve(self, tokens: int) -> None:
        """Once, with all that the request can take.

        :raises RateLimited: they are not there now.
        :raises ExceedsRate: they never will be.
        """
        if self._rates.tokens is None:
            return
        self._reserved = True  # from here on, whatever becomes of the call
        self._verdict = await self._home.ask(Reserve(self._rates, self._ticket, tokens))
        self._raise_if_refused(tokens)

    def close(self) -> None:
        """Give back what was reserved and not used."""
        if self._reserved:
            self._reserved = False
            self._home.tell(Settle(self._rates.key, self._ticket, self.used_tokens))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """How it stands with the rates, as OpenAI's clients know it."""
        shown: list[str] = []
        for state in (self._verdict.requests, self._verdict.tokens):
            shown += ["", "", ""] if state is None else _shown(state)
        return [(name.encode(), value.encode()) for name, value in zip(RATE_HEADERS, shown, strict=True) if value]

    def _raise_if_refused(self, amount: int) -> None:
        rate = self._verdict.refused_by
        if rate is None:
            return
        state = self._verdict.requests if rate == REQUESTS else self._verdict.tokens
        assert state is not None, "a rate that refuses has a state"
        limit = f"The {rate} of this key are {number(state.limit)}"
        if math.isinf(self._verdict.wait_s):
            raise ExceedsRate(
                f"{limit}, and this request may use {amount} tokens (its prompt and max_new_tokens of every "
                "completion): it can never be answered. Make it smaller.",
                param="max_new_tokens",
            )
        left = f"{math.floor(state.remaining)} are left"
        wants = "" if rate == REQUESTS else f", and this request may use {amount} (its prompt and max_tokens)"
        wait = duration(self._verdict.wait_s)
        raise RateLimited(f"{limit}, {left}{wants}: try again in {wait}.", retry_after_s=self._verdict.wait_s)

    def __repr__(self) -> str:
        return f"<RateTicket: {self._verdict}, {'reserved' if self._reserved else 'holds nothing'}>"


def _shown(state: RateState) -> list[str]:
    return [number(state.limit), str(math.floor(state.remaining)), duration(state.reset_s)]


def number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    milliseconds = math.ceil(round(seconds * 1000.0, 3))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{text}{rest / 1000:g}s"
