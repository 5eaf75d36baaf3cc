"""Policies: what they prefer, all else being equal."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from actors.errors import ConfigurationError
from actors.scheduling.policies import BATCH_DECODE_WEIGHT, POLICIES, Candidates, Cost, Policy, cost_s, make_policy


def candidates(count: int = 3, expected_tokens: float = 100.0, **columns: Any) -> Candidates:
    """Equal workers, but for the columns that are given."""
    values: dict[str, Any] = {
        "miss_tokens": [1000.0] * count,
        "wait_s": [0.0] * count,
        "eligible": [True] * count,
        "batch": [0.0] * count,
        "pending_prefill_tokens": [0.0] * count,
        "base_s": [0.02] * count,
        "per_job_s": [0.001] * count,
        "prefill_s": [0.0002] * count,
    }
    arrays: dict[str, Any] = {name: np.asarray(columns.get(name, value)) for name, value in values.items()}
    return Candidates(expected_tokens=expected_tokens, **arrays)


def best(policy: Policy, given: Candidates) -> int:
    scores = np.where(given.eligible, policy.score(given), np.inf)
    return int(scores.argmin())


@pytest.mark.parametrize(
    "columns",
    [
        {"miss_tokens": [1000.0, 200.0, 1000.0]},
        {"wait_s": [1.0, 0.0, 1.0]},
        {"batch": [3.0, 1.0, 2.0]},
        {"pending_prefill_tokens": [500.0, 0.0, 500.0]},
        {"base_s": [0.04, 0.02, 0.04]},
        {"per_job_s": [0.002, 0.001, 0.002]},
        {"prefill_s": [0.0004, 0.0002, 0.0004]},
    ],
)
def test_cost_prefers_whatever_is_done_sooner(columns: dict[str, Any]) -> None:
    assert best(make_policy("cost", 0), candidates(**columns)) == 1


def test_cost_waits_for_a_prefix_as_long_as_that_pays() -> None:
    def choice(wait_s: float) -> int:
        return best(Cost(), candidates(2, miss_tokens=[5000.0, 0.0], wait_s=[0.0, wait_s]))

    assert choice(0.9) == 1  # 5,000 tokens of prefill take a second
    assert choice(1.1) == 0


def test_cost_minds_those_who_would_feel_the_prefill() -> None:
    crowded = candidates(2, miss_tokens=[3000.0, 1000.0], batch=[0.0, 4.0])
    assert best(Cost(), crowded) == 0


def test_a_fast_worker_gets_more_and_a_slow_one_its_share() -> None:
    batch = np.zeros(2)
    for _ in range(30):
        given = candidates(2, miss_tokens=[0.0, 0.0], batch=batch, base_s=[0.01, 0.03], per_job_s=[0.001, 0.003])
        batch[best(Cost(), given)] += 1
    assert batch[0] > 1.5 * batch[1] > 0


def test_the_cost_of_one_worker_is_that_of_many() -> None:
    given = candidates(batch=[0.0, 2.0, 5.0], pending_prefill_tokens=[0.0, 10.0, 900.0])
    scores = Cost().score(given)
    for index in range(3):
        tokens = float(given.pending_prefill_tokens[index] + given.miss_tokens[index])
        one = cost_s(100.0, tokens, float(given.batch[index]), 0.02, 0.001, 0.0002)
        assert one == pytest.approx(float(scores[index]))


def test_lmetric_multiplies_new_tokens_and_batch() -> None:
    policy = make_policy("lmetric", 0)
    given = candidates(miss_tokens=[1000.0, 400.0, 0.0], batch=[0.0, 1.0, 2.0], pending_prefill_tokens=[0, 0, 300])
    assert policy.score(given).tolist() == [1000.0, 800.0, 900.0]


def test_least_requests_looks_at_nothing_else() -> None:
    policy = make_policy("least_requests", 0)
    assert best(policy, candidates(batch=[2.0, 1.0, 3.0], miss_tokens=[0.0, 9000.0, 0.0])) == 1


def test_power_of_two_takes_the_better_of_two_by_lot() -> None:
    policy = make_policy("power_of_two", 1)
    chosen = Counter(best(policy, candidates(batch=[0.0, 1.0, 2.0])) for _ in range(300))
    assert chosen[2] == 0  # it loses against either
    assert chosen[0] == pytest.approx(200, abs=40)
    assert chosen[1] == pytest.approx(100, abs=40)


def test_power_of_two_makes_do_with_one() -> None:
    policy = make_policy("power_of_two", 1)
    assert all(best(policy, candidates(eligible=[False, False, True])) == 2 for _ in range(20))


def test_power_of_two_follows_its_seed() -> None:
    def choices(seed: int) -> list[int]:
        policy = make_policy("power_of_two", seed)
        return [best(policy, candidates(5)) for _ in range(20)]

    assert choices(1) == choices(1) != choices(2)


def test_round_robin_goes_round_and_passes_over_who_may_not() -> None:
    policy = make_policy("round_robin", 0)
    order = []
    for eligible in [[True] * 3] * 4 + [[True, False, True]] * 3:
        index = best(policy, candidates(eligible=eligible))
        policy.placed(index)
        order.append(index)
    assert order == [0, 1, 2, 0, 2, 0, 2]


def test_only_cost_holds() -> None:
    assert [name for name in POLICIES if make_policy(name, 0).holds] == ["cost"]
    for name in POLICIES:
        make_policy(name, 0).placed(0)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="power_of_two, least_requests, round_robin"):
        make_policy("best", 0)


def test_in_class_batch_own_decode_weighs_in_full() -> None:
    """2 s of waiting against 3 s more of decoding: a reader starts at once, a data set waits for the faster worker."""
    given = candidates(3, expected_tokens=100.0, wait_s=[0.0, 2.0, 9.0], base_s=[0.05, 0.02, 0.02])
    assert best(Cost(), given) == 0
    given.decode_weight = BATCH_DECODE_WEIGHT
    assert best(Cost(), given) == 1
