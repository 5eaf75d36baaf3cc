"""Rates: how many requests and tokens a key may use per minute. Pure, with the time as an argument.

A bucket fills evenly and holds one minute's worth. What a request may need at most is taken from it before the request
begins, and what it did not need comes back at its end, as if it had never been taken: nobody gets more than the bucket
and the rate allow, and nobody waits longer than what he truly used justifies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MINUTE_S = 60.0
FORGET_S = 3600.0
"""A reservation that is not settled in this time counts as used: whoever made it is gone."""
_ROUNDING = 1e-9
"""Part of a bucket that sums of floats may be wrong by: a wait that was told must be enough."""


@dataclass(frozen=True, slots=True)
class RateState:
    """One rate of a key as its owner is told: after `reset_s` without requests nothing of it is used."""

    limit: float
    remaining: float
    reset_s: float


@dataclass(slots=True)
class _Reserved:
    amount: float
    at_s: float
    room: float
    """How much of it can come back: the least that was missing in the bucket since it was taken. What came back beyond
    that would have run over, had it never been taken."""


class Bucket:
    """Fills with `per_minute` and holds at most that much, but one unit at least; starts full. One of `shares` equal
    ones starts and fills with its part, and holds as much as a single one: what fits that fits this, if later."""

    def __init__(self, per_minute: float, now_s: float, *, shares: int = 1) -> None:
        self.per_minute = per_minute
        self.capacity = max(per_minute, 1.0)
        self.level = self.capacity / shares
        self._shares = shares
        self._now_s = now_s
        self._reserved: dict[bytes, _Reserved] = {}
        """By ticket, the oldest first; so `room` never falls from one to the next."""

    def wait_s(self, amount: float, now_s: float) -> float:
        """After how many seconds it will hold `amount`: 0, it does now; infinity, it never will."""
        self._advance(now_s)
        if amount > self.capacity:
            return math.inf
        missing = amount - self.level
        return 0.0 if missing <= self.capacity * _ROUNDING else self._filling_s(missing)

    def take(self, amount: float) -> None:
        """What is there, for good."""
        self.level -= amount

    def reserve(self, ticket: bytes, amount: float) -> None:
        """Take what is there; `settle` says how much of it was used."""
        self.level -= amount
        self._reserved[ticket] = _Reserved(amount, self._now_s, self.capacity - self.level)

    def settle(self, ticket: bytes, used: float, now_s: float) -> None:
        """A reservation is over; one that is not known is none. More than was reserved is taken now."""
        self._advance(now_s)
        reserved = self._reserved.get(ticket)
        if reserved is None:
            return
        if used > reserved.amount:
            self.level -= used - reserved.amount
        else:
            self._give_back(ticket, reserved, reserved.amount - used)
        del self._reserved[ticket]

    def resize(self, per_minute: float, now_s: float) -> None:
        """Another rate from now on, which gives nothing at once."""
        self._advance(now_s)
        self.per_minute = per_minute
        self.capacity = max(per_minute, 1.0)
        self.level = min(self.level, self.capacity)
        for reserved in self._reserved.values():
            reserved.room = min(reserved.room, self.capacity - self.level)

    def state(self, now_s: float) -> RateState:
        self._advance(now_s)
        reset_s = self._filling_s(self.capacity - self.level)
        return RateState(self.per_minute, max(self.level, 0.0), reset_s)

    def is_untouched(self, now_s: float) -> bool:
        """Whether it is like a new one."""
        self._advance(now_s)
        return self.level == self.capacity and not self._reserved

    def _give_back(self, ticket: bytes, settled: _Reserved, unused: float) -> None:
        """Make everything as if `unused` had not been taken, the rooms of other reservations included: one that was
        made later saw that much more in the bucket all its time, one that was made earlier from then on."""
        back = min(unused, settled.room)
        self.level += back
        earlier = True
        for other, reserved in self._reserved.items():
            if other == ticket:
                earlier = False
            elif earlier:
                reserved.room = min(reserved.room, settled.room - back)
            else:
                reserved.room -= back

    def _advance(self, now_s: float) -> None:
        if now_s <= self._now_s:
            return  # a clock that steps back gives nothing
        filled = (now_s - self._now_s) * self.per_minute / MINUTE_S / self._shares
        self.level = min(self.level + filled, self.capacity)
        self._now_s = now_s
        missing = self.capacity - self.level
        for reserved in reversed(self._reserved.values()):
            if reserved.room <= missing:
                break
            reserved.room = missing
        while self._reserved:
            oldest = next(iter(self._reserved))
            if self._reserved[oldest].at_s > now_s - FORGET_S:
                break
            del self._reserved[oldest]

    def _filling_s(self, amount: float) -> float:
        return amount * MINUTE_S / self.per_minute * self._shares

    def __repr__(self) -> str:
        return f"<Bucket: {self.level:g} of {self.capacity:g}, {len(self._reserved)} reservations>"
