"""Rates: nobody gets more than the rate over any stretch of time, and a wait that was told is enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.edge.rates import MINUTE_S, Account, Bucket


def test_a_minute_worth_at_once_then_evenly() -> None:
    account = Account(60.0, None, 0.0)
    assert [account.enter(0.0) for _ in range(60)] == [0.0] * 60
    assert account.enter(0.0) == pytest.approx(1.0)
    assert account.enter(0.5) == pytest.approx(0.5)
    assert account.enter(1.0) == 0.0
    assert account.enter(1.0) == pytest.approx(1.0)


def test_a_refused_request_is_not_counted() -> None:
    account = Account(1.0, None, 0.0)
    assert account.enter(0.0) == 0.0
    waits = [account.enter(second) for second in (10.0, 20.0, 30.0)]
    assert waits == pytest.approx([50.0, 40.0, 30.0])
    assert account.enter(60.0) == 0.0


def test_tokens_are_owed_afterwards() -> None:
    account = Account(None, 100.0, 0.0)
    assert account.enter(0.0) == 0.0
    account.charge(250, 0.0)
    wait_s = account.enter(0.0)
    assert wait_s == pytest.approx(151 * MINUTE_S / 100)
    assert account.enter(wait_s + 1e-6) == 0.0


def test_without_rates_everything_goes() -> None:
    account = Account(None, None, 0.0)
    account.charge(10**9, 0.0)
    assert account.enter(0.0) == 0.0


def test_less_than_one_a_minute() -> None:
    account = Account(0.5, None, 0.0)
    assert account.enter(0.0) == 0.0
    assert account.enter(0.0) == pytest.approx(120.0)
    assert account.enter(120.1) == 0.0


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = Bucket(60.0, 100.0)
    bucket.take(60.0, 100.0)
    assert bucket.wait_s(1.0, 50.0) == pytest.approx(1.0)
    assert bucket.wait_s(1.0, 101.0) == 0.0


@given(rate=st.floats(0.5, 1000.0), gaps=st.lists(st.floats(0.0, 30.0), min_size=1, max_size=200))
def test_never_more_than_a_minutes_worth_and_the_rate(rate: float, gaps: list[float]) -> None:
    account, now_s, admitted = Account(rate, None, 0.0), 0.0, 0
    for gap_s in gaps:
        now_s += gap_s
        admitted += account.enter(now_s) == 0.0
        assert admitted <= max(rate, 1.0) + rate * now_s / MINUTE_S + 1.0


@given(rate=st.floats(0.5, 1000.0), gaps=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=50))
def test_a_wait_that_was_told_is_enough(rate: float, gaps: list[float]) -> None:
    account, now_s = Account(rate, None, 0.0), 0.0
    for gap_s in gaps:
        now_s += gap_s
        wait_s = account.enter(now_s)
        if wait_s:
            now_s += wait_s + 1e-6
            assert account.enter(now_s) == 0.0
