"""What is learned: step times, and how long completions become."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import StepSample
from actors.scheduling.estimates import DEFAULT_TIMES, OutputLengths, StepModel, StepTimes

TRUTH = StepTimes(0.015, 0.0006, 1 / 5000)


def samples(truth: StepTimes, count: int, *, noise: float = 0.05, seed: int = 1) -> list[StepSample]:
    dice = random.Random(seed)
    steps = []
    for _ in range(count):
        batch, tokens = dice.randrange(1, 20), dice.choice([0, 0, 512, 256, 1024])
        exact_s = truth.step_s(batch) + truth.prefill_s * tokens
        steps.append(StepSample(exact_s * dice.uniform(1 - noise, 1 + noise), tokens, batch))
    return steps


def test_a_new_worker_is_like_its_prior() -> None:
    assert StepModel().times == DEFAULT_TIMES
    assert StepModel(TRUTH).times == TRUTH


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_speed_is_learned(scale: float) -> None:
    truth = StepTimes(*(value * scale for value in TRUTH))
    model = StepModel()
    model.observe(samples(truth, 300))
    for batch in (1, 8, 19):
        assert model.times.step_s(batch) == pytest.approx(truth.step_s(batch), rel=0.1)
    assert model.times.prefill_s == pytest.approx(truth.prefill_s, rel=0.1)


def test_a_worker_that_becomes_slow_is_noticed() -> None:
    model = StepModel()
    model.observe(samples(TRUTH, 300))
    slow = StepTimes(*(value * 4 for value in TRUTH))
    model.observe(samples(slow, 400))
    assert model.times.step_s(8) == pytest.approx(slow.step_s(8), rel=0.15)


def test_one_hiccup_is_no_trend() -> None:
    model = StepModel()
    model.observe(samples(TRUTH, 300))
    before_s = model.times.step_s(8)
    model.observe([StepSample(60.0, 0, 8)])
    assert model.times.step_s(8) < 1.5 * before_s


def test_what_was_never_seen_stays_as_it_was_believed() -> None:
    model = StepModel()
    model.observe([StepSample(0.05, 0, 4)] * 300)
    assert model.times.prefill_s == pytest.approx(DEFAULT_TIMES.prefill_s)
    assert model.times.step_s(4) == pytest.approx(0.05, rel=0.05)


def test_coefficients_are_never_negative() -> None:
    """Steps that become shorter with the batch: the best that is possible is that the batch costs nothing."""
    model = StepModel()
    model.observe([StepSample(0.1 - 0.004 * batch, 0, batch) for _ in range(20) for batch in range(1, 20)])
    assert model.times.per_job_s == 0.0
    assert model.times.base_s == pytest.approx(0.06, abs=0.03)


steps = st.builds(
    StepSample,
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(10**6), 10**6),
    st.integers(-(10**4), 10**4),
)


@given(st.lists(st.lists(steps, max_size=20), max_size=5))
def test_whatever_is_reported_times_stay_possible(reports: list[list[StepSample]]) -> None:
    model = StepModel()
    for report in reports:
        model.observe(report)
        assert all(0.0 <= value < 1e7 for value in model.times)


def test_completions_are_expected_to_use_half_of_their_bound_at_first() -> None:
    lengths = OutputLengths()
    assert lengths.expected("a", 200) == 100.0
    assert lengths.expected("a", 1) == 1.0


def test_lengths_are_learned_per_tenant() -> None:
    lengths = OutputLengths()
    for _ in range(60):
        lengths.observe("short", 20, 200)
        lengths.observe("long", 200, 200)
    assert lengths.expected("short", 200) < 60.0
    assert lengths.expected("long", 200) > 160.0
    assert lengths.expected("short", 200) < lengths.expected("new", 200) < lengths.expected("long", 200)


def test_impossible_lengths_are_cut() -> None:
    lengths = OutputLengths()
    for tokens in (-100, 10**9):
        for _ in range(100):
            lengths.observe("a", tokens, 200)
            assert 1.0 <= lengths.expected("a", 200) <= 200.0


def test_tenants_are_bounded() -> None:
    lengths = OutputLengths()
    for _ in range(50):
        lengths.observe("early", 200, 200)
    for number in range(OutputLengths.MAX_TENANTS):
        lengths.observe(str(number), 20, 200)
    assert len(lengths._tenants) == OutputLengths.MAX_TENANTS
    assert lengths.expected("early", 200) == lengths.expected("never", 200)
