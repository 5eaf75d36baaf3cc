"""The book of rates: what every key has used, and the answers to those who ask. Pure, with the time as an argument.

There is one for all replicas of the front, where they all can ask it; a replica that cannot has one of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.edge.rates import MINUTE_S, Bucket, RateState

REQUESTS, TOKENS = "requests_per_minute", "tokens_per_minute"


@dataclass(frozen=True, slots=True)
class KeyRates:
    """A key, by its hash, and its rates per minute; None: unbounded."""

    key: str
    requests: float | None
    tokens: float | None


@dataclass(frozen=True, slots=True)
class Enter:
    """A request comes."""

    rates: KeyRates


@dataclass(frozen=True, slots=True)
class Reserve:
    """It may take so many tokens, and is known by its ticket from here on."""

    rates: KeyRates
    ticket: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Settle:
    """It is over, and took so many. Harmless where its tokens were never reserved, and when it is said again."""

    key: str
    ticket: bytes
    tokens: int


RateCall = Enter | Reserve | Settle


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refused_by` names the rate that a request has to wait for, `wait_s` says how long; infinity: for ever."""

    refused_by: str | None = None
    wait_s: float = 0.0
    requests: RateState | None = None
    tokens: RateState | None = None


class RateBook:
    """The accounts of all keys; those of keys that have used nothing of late are not kept.

    `shares` of such books together give what the rates allow, if not in the first minutes.
    """

    def __init__(self, shares: int = 1) -> None:
        self._shares = shares
        self._accounts: dict[str, _Account] = {}
        self._swept_at_s = 0.0

    def answer(self, calls: Sequence[RateCall], now_s: float) -> list[Verdict | None]:
        """A verdict on every call, in their order; None for those that have none."""
        self._sweep(now_s)
        return [self._answer(call, now_s) for call in calls]

    def _answer(self, call: RateCall, now_s: float) -> Verdict | None:
        if isinstance(call, Settle):
            account = self._accounts.get(call.key)
            if account is not None and account.tokens is not None:
                account.tokens.settle(call.ticket, call.tokens, now_s)
            return None
        account = self._accounts.get(call.rates.key)
        if account is None:
            account = self._accounts[call.rates.key] = _Account(self._shares)
        account.bring_to(call.rates, now_s)
        return account.enter(now_s) if isinstance(call, Enter) else account.reserve(call, now_s)

    def _sweep(self, now_s: float) -> None:
        if now_s - self._swept_at_s >= MINUTE_S:
            self._swept_at_s = now_s
            kept = {key: account for key, account in self._accounts.items() if not account.is_untouched(now_s)}
            self._accounts = kept

    def __len__(self) -> int:
        return len(self._accounts)

    def __repr__(self) -> str:
        return f"<RateBook of {len(self._accounts)} keys>"


class _Account:
    """What one key has used."""

    def __init__(self, shares: int) -> None:
        self._shares = shares
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None

    def bring_to(self, rates: KeyRates, now_s: float) -> None:
        self.requests = self._with_rate(self.requests, rates.requests, now_s)
        self.tokens = self._with_rate(self.tokens, rates.tokens, now_s)

    def enter(self, now_s: float) -> Verdict:
        wait_s = 0.0 if self.requests is None else self.requests.wait_s(1.0, now_s)
        if wait_s:
            return self._verdict(now_s, REQUESTS, wait_s)
        if self.requests is not None:
            self.requests.take(1.0)
        return self._verdict(now_s)

    def reserve(self, call: Reserve, now_s: float) -> Verdict:
        if self.tokens is None:
            return self._verdict(now_s)
        wait_s = self.tokens.wait_s(call.tokens, now_s)
        if wait_s:
            return self._verdict(now_s, TOKENS, wait_s)
        self.tokens.reserve(call.ticket, call.tokens)
        return self._verdict(now_s)

    def is_untouched(self, now_s: float) -> bool:
        return all(bucket is None or bucket.is_untouched(now_s) for bucket in (self.requests, self.tokens))

    def _verdict(self, now_s: float, refused_by: str | None = None, wait_s: float = 0.0) -> Verdict:
        return Verdict(
            refused_by,
            wait_s,
            None if self.requests is None else self.requests.state(now_s),
            None if self.tokens is None else self.tokens.state(now_s),
        )

    def _with_rate(self, bucket: Bucket | None, per_minute: float | None, now_s: float) -> Bucket | None:
        if per_minute is None:
            return None
        if bucket is None:
            return Bucket(per_minute, now_s, shares=self._shares)
        if bucket.per_minute != per_minute:
            bucket.resize(per_minute, now_s)
        return bucket
