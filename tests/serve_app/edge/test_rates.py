"""Rates: nobody gets more than the rate over any stretch of time, nobody loses anything, and a wait that was told is
enough."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.edge.rates import FORGET_S, MINUTE_S, Bucket
from tests.properties import examples

LIMIT = 120


def test_a_minute_worth_at_once_then_evenly() -> None:
    bucket = Bucket(60.0, 0.0)
    for _ in range(60):
        assert bucket.wait_s(1.0, 0.0) == 0.0
        bucket.take(1.0)
    assert bucket.wait_s(1.0, 0.0) == pytest.approx(1.0)
    assert bucket.wait_s(1.0, 0.5) == pytest.approx(0.5)
    assert bucket.wait_s(1.0, 1.0) == 0.0


def test_less_than_one_a_minute() -> None:
    bucket = Bucket(0.5, 0.0)
    assert bucket.wait_s(1.0, 0.0) == 0.0
    bucket.take(1.0)
    assert bucket.wait_s(1.0, 0.0) == pytest.approx(120.0)
    assert bucket.wait_s(1.0, 120.0) == 0.0


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = Bucket(60.0, 100.0)
    bucket.take(60.0)
    assert bucket.wait_s(1.0, 50.0) == pytest.approx(1.0)
    assert bucket.wait_s(1.0, 101.0) == 0.0


def test_what_never_fits_is_told_from_what_does_not_fit_now() -> None:
    bucket = Bucket(LIMIT, 0.0)
    bucket.reserve(b"a", LIMIT)
    assert bucket.wait_s(LIMIT, 0.0) == MINUTE_S
    assert math.isinf(bucket.wait_s(LIMIT + 1, 0.0))


def test_what_was_not_used_is_there_at_once() -> None:
    bucket = Bucket(LIMIT, 0.0)
    bucket.reserve(b"a", 100)
    assert bucket.wait_s(40, 0.0) == pytest.approx(10.0)
    bucket.settle(b"a", 70, 0.0)
    assert bucket.wait_s(40, 0.0) == 0.0
    bucket.settle(b"a", 0, 0.0)
    bucket.settle(b"other", 0, 0.0)
    assert bucket.level == 50, "a settlement counts once, and only for what was reserved"


def test_what_comes_back_late_does_not_add_up() -> None:
    """Ten requests that hung for ten minutes: a minute's worth is there then, not ten."""
    bucket = Bucket(LIMIT, 0.0)
    for number in range(10):
        assert bucket.wait_s(LIMIT, number * MINUTE_S) == 0.0
        bucket.reserve(b"%d" % number, LIMIT)
    granted = 0
    for number in range(10):
        bucket.settle(b"%d" % number, 0, 9 * MINUTE_S)
        if bucket.wait_s(LIMIT, 9 * MINUTE_S) == 0.0:
            bucket.reserve(b"x%d" % number, LIMIT)
            granted += LIMIT
    assert granted == LIMIT


def test_a_reservation_that_nobody_settles_is_forgotten() -> None:
    bucket = Bucket(LIMIT, 0.0)
    bucket.reserve(b"a", LIMIT)
    assert not bucket.is_untouched(MINUTE_S), "it may still come back"
    assert bucket.is_untouched(FORGET_S)


def test_another_rate_gives_nothing_at_once() -> None:
    bucket = Bucket(LIMIT, 0.0)
    bucket.reserve(b"a", 100)
    bucket.resize(10 * LIMIT, 0.0)
    assert bucket.wait_s(40, 0.0) == pytest.approx(1.0)
    bucket.resize(10, 0.0)
    assert bucket.wait_s(10, 0.0) == 0.0
    bucket.settle(b"a", 0, 0.0)
    assert bucket.level == 10


def test_shares_of_a_rate_hold_what_the_whole_one_holds() -> None:
    shares = [Bucket(LIMIT, 0.0, shares=3) for _ in range(3)]
    assert [share.wait_s(40, 0.0) for share in shares] == [0.0] * 3
    assert [share.wait_s(41, 0.0) for share in shares] == pytest.approx([1.5] * 3)
    assert [share.wait_s(LIMIT, 0.0) for share in shares] == pytest.approx([120.0] * 3)


@dataclass
class Request:
    at_s: float
    amount: int
    used: int
    ends_after: int


Asked = tuple[float, int, int, int]
"""The gap before a request, what it may need, what it will use, and how many others come before its end."""

requests = st.lists(
    st.builds(
        lambda gap, amount, part, ends: (gap, amount, min(part, amount), ends),
        st.sampled_from([0.0, 0.0, 0.5, 3.0, 20.0, 90.0]),
        st.integers(1, LIMIT),
        st.sampled_from([0, 1, 10, 50, LIMIT]),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=40,
)


def admitted(bucket: Bucket, asked: list[Asked]) -> tuple[list[Request], float]:
    """What a bucket lets in; all of it is settled in the end. Returns the time of the end, too."""
    now_s, let_in, running = 0.0, list[Request](), dict[bytes, Request]()
    for number, (gap_s, amount, used, ends_after) in enumerate(asked):
        now_s += gap_s
        for ticket in [ticket for ticket, request in running.items() if request.ends_after <= number]:
            bucket.settle(ticket, running.pop(ticket).used, now_s)
        if bucket.wait_s(amount, now_s) == 0.0:
            request = Request(now_s, amount, used, number + 1 + ends_after)
            ticket = number.to_bytes(2)
            bucket.reserve(ticket, amount)
            running[ticket] = request
            let_in.append(request)
        assert -1e-6 <= bucket.level <= LIMIT
    for ticket, request in running.items():
        bucket.settle(ticket, request.used, now_s)
    return let_in, now_s


@examples(50)
@given(requests)
def test_in_the_end_it_is_as_if_only_what_was_used_had_been_taken(asked: list[Asked]) -> None:
    bucket = Bucket(LIMIT, 0.0)
    let_in, now_s = admitted(bucket, asked)
    foreknowing = Bucket(LIMIT, 0.0)
    for request in let_in:
        assert foreknowing.wait_s(request.used, request.at_s) == 0.0
        foreknowing.take(request.used)
    foreknowing.wait_s(0.0, now_s)
    assert bucket.level == pytest.approx(foreknowing.level, abs=1e-6)


@examples(50)
@given(requests)
def test_over_any_time_no_more_is_used_than_the_rate_and_a_minutes_worth(
    asked: list[Asked],
) -> None:
    let_in, _ = admitted(Bucket(LIMIT, 0.0), asked)
    for first, start in enumerate(let_in):
        used = 0
        for request in let_in[first:]:
            used += request.used
            assert used <= LIMIT + LIMIT * (request.at_s - start.at_s) / MINUTE_S + 1e-6


@examples(50)
@given(requests)
def test_a_wait_that_was_told_is_enough(asked: list[Asked]) -> None:
    bucket, now_s = Bucket(LIMIT, 0.0), 0.0
    for number, (gap_s, amount, _, _) in enumerate(asked):
        now_s += gap_s
        now_s += bucket.wait_s(amount, now_s)
        assert bucket.wait_s(amount, now_s) == 0.0
        bucket.reserve(number.to_bytes(2), amount)
