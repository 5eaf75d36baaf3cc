"""Rates: how many requests and tokens a key may use per minute. Pure, with the time as an argument.

Each is a bucket that fills evenly and holds one minute's worth. A request takes its place at once; tokens are known
at the end only, so they are taken then, and the bucket may go below zero: the next request waits until it is above.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MINUTE_S = 60.0


@dataclass(slots=True)
class Bucket:
    """Fills with `per_minute` and holds at most that much; starts full."""

    per_minute: float
    updated_at_s: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.per_minute

    def wait_s(self, amount: float, now_s: float) -> float:
        """After how many seconds it will hold `amount`; 0: it does now."""
        self._fill(now_s)
        missing = min(amount, self.per_minute) - self.level
        return max(missing, 0.0) * MINUTE_S / self.per_minute

    def take(self, amount: float, now_s: float) -> None:
        self._fill(now_s)
        self.level -= amount

    def _fill(self, now_s: float) -> None:
        elapsed_s = max(now_s - self.updated_at_s, 0.0)
        self.level = min(self.level + elapsed_s * self.per_minute / MINUTE_S, self.per_minute)
        self.updated_at_s = max(now_s, self.updated_at_s)


class Account:
    """What one key has used."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None, now_s: float) -> None:
        self.rates = (requests_per_minute, tokens_per_minute)
        self._requests = None if requests_per_minute is None else Bucket(requests_per_minute, now_s)
        self._tokens = None if tokens_per_minute is None else Bucket(tokens_per_minute, now_s)

    def enter(self, now_s: float) -> float:
        """Count a request. Returns 0, or after how many seconds it may come again; then it is not counted."""
        wait_s = 0.0
        if self._requests is not None:
            wait_s = self._requests.wait_s(1.0, now_s)
        if self._tokens is not None:
            wait_s = max(wait_s, self._tokens.wait_s(1.0, now_s))
        if wait_s == 0.0 and self._requests is not None:
            self._requests.take(1.0, now_s)
        return wait_s

    def charge(self, tokens: int, now_s: float) -> None:
        """Count the tokens of a request, at its end."""
        if self._tokens is not None:
            self._tokens.take(tokens, now_s)

    def __repr__(self) -> str:
        return f"<Account: requests {_shown(self._requests)}, tokens {_shown(self._tokens)}>"


def _shown(bucket: Bucket | None) -> str:
    return "unbounded" if bucket is None else f"{bucket.level:g} of {bucket.per_minute:g} a minute"
