"""The pauses before a worker starts again, over all sequences of short and long lives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.dispatcher.restart_pauses import HOPELESS_DEATHS, LONG_LIFE_S, RestartPauses

LONGEST_S = 60.0


def test_the_first_death_costs_no_pause_and_each_further_one_twice_as_long_up_to_the_longest() -> None:
    pauses = RestartPauses(LONGEST_S)
    seen = []
    for number in range(10):
        pauses.came_up(10.0 * number)
        pauses.died(10.0 * number + 9.0)
        seen.append(pauses.pause_s)
    assert seen == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_long_life_makes_its_death_the_first_one() -> None:
    pauses = RestartPauses(LONGEST_S)
    for _ in range(5):
        pauses.died(0.0)
    pauses.came_up(100.0)
    assert pauses.next_pause_s(100.0 + LONG_LIFE_S - 0.1) == 16.0
    pauses.died(100.0 + LONG_LIFE_S)
    assert pauses.pause_s == 0.0
    pauses.died(100.0 + 3 * LONG_LIFE_S)
    assert pauses.pause_s == 1.0, "it never came up: however long it took, it was no long life"


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, LONG_LIFE_S - 1.0, LONG_LIFE_S, 1e6]), st.booleans()), max_size=80),
    st.sampled_from([0.0, 0.5, 3.0, 60.0]),
)
def test_a_pause_depends_on_the_short_lives_since_the_last_long_one(
    lives: list[tuple[float, bool]], longest_s: float
) -> None:
    pauses, now_s, short = RestartPauses(longest_s), 5.0, 0
    assert pauses.pause_s == 0.0
    for life_s, up in lives:
        if up:
            pauses.came_up(now_s)
        now_s += life_s
        foretold_s = pauses.next_pause_s(now_s)
        pauses.died(now_s)
        short = 1 if up and life_s >= LONG_LIFE_S else short + 1
        assert foretold_s == pauses.pause_s == min(2.0 ** (short - 2) if short > 1 else 0.0, longest_s)
    assert pauses.hopeless == (len(lives) >= HOPELESS_DEATHS and not any(up for _, up in lives))
