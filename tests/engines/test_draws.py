"""Random numbers that are functions of their place."""

from __future__ import annotations

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines.draws import Draws, uniform

TOKENS = st.lists(st.integers(0, 2**31), max_size=20)
SEEDS = st.integers(-(2**63), 2**64)


def test_the_draws_by_position_are_those_of_ever() -> None:
    """A seed that somebody noted gives the same text with every version of the CPU engine."""
    assert [uniform(7, position) for position in range(2)] == [0.7215081806049702, 0.15589407130731636]
    assert uniform(2**63 + 5, 1000) == 0.8257227895631031


@given(seed=SEEDS, begun=TOKENS, following=TOKENS)
def test_draws_that_go_on_elsewhere_are_the_same(seed: int, begun: list[int], following: list[int]) -> None:
    here, there = Draws(seed), Draws(seed, begun)
    for token_id in begun:
        here.add(token_id)
    for token_id in following:
        assert here.draw() == there.draw()
        assert 0.0 <= here.draw() < 1.0
        here.add(token_id)
        there.add(token_id)
    assert here.draw() == there.draw()


@given(seed=SEEDS, kept=TOKENS, taken_back=TOKENS)
def test_what_is_taken_back_leaves_nothing_behind(seed: int, kept: list[int], taken_back: list[int]) -> None:
    draws = Draws(seed, [*kept, *taken_back])
    draws.take_back(len(taken_back))
    assert draws.draw() == Draws(seed, kept).draw()
    assert draws.draw(1) == Draws(seed, kept).draw(1)


def test_another_seed_another_token_and_another_try_draw_something_else() -> None:
    draws = {
        Draws(seed, begun).draw(tried)
        for seed in range(5)
        for begun in ((), (1,), (2,), (1, 2), (2, 1))
        for tried in range(4)
    }
    assert len(draws) == 5 * 5 * 4


def test_what_led_to_a_draw_tells_nothing_of_the_next() -> None:
    """Places whose first draw was small, whose second one then is as any: the tries of a place are not biased."""
    again = [Draws(seed).draw(1) for seed in range(4000) if Draws(seed).draw() < 0.25]
    behind = [Draws(seed, (5,)).draw() for seed in range(4000) if Draws(seed).draw() < 0.25]
    beside = [Draws(seed, (5,)).draw() for seed in range(4000) if Draws(seed, (6,)).draw() < 0.25]
    for drawn in (again, behind, beside):
        assert len(drawn) == pytest.approx(1000, abs=100)
        assert fmean(drawn) == pytest.approx(0.5, abs=0.04)
        assert fmean(value < 0.25 for value in drawn) == pytest.approx(0.25, abs=0.05)
