"""Deciding from a few candidates gives what the library's sampler gives from the whole row, or says that it may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.engines.exllamav2.cut import Cut, choose, cut_of
from actors.engines.exllamav2.sampling import most_likely
from actors.engines.exllamav2.settings import sampler_settings
from actors.sampling import SamplingParams, sampling_params
from tests.engines.exllamav2.standin.sampler import sample_basic
from tests.properties import examples

VOCAB = 1024
NONE = torch.empty((1, 1), device="meta")


def from_whole_row(row: torch.Tensor, params: SamplingParams, draw: float) -> int:
    used = sampler_settings(params)
    token, probability = torch.zeros((1, 1), dtype=torch.long), torch.zeros((1, 1))
    cuts = (used.temperature, used.top_k, used.top_p, used.top_a, used.min_p, used.tfs, used.typical)
    outputs = (token, probability, NONE, NONE, NONE)
    rest: tuple[Any, ...] = (False, [], 0.0, 0.0, 1.0, NONE, 0.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0)
    sample_basic(row.float().view(1, 1, -1).clone(), *cuts, draw, *outputs, *rest)
    return int(token)


def cut(params: SamplingParams) -> Cut:
    found = cut_of(params)
    assert found is not None
    return found


SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"top_p": 0.0},
    {"top_k": 1},
    {"top_k": 2},
    {"top_k": 50},
    {"top_k": 50, "temperature": 1.7},
    {"top_k": 50, "top_p": 0.9},
    {"top_p": 0.95},
    {"top_p": 0.5, "temperature": 0.6},
    {"min_p": 0.05},
    {"min_p": 0.3, "temperature": 1.5},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
    {"top_k": 400, "min_p": 0.02},
]


@examples(60)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.2, 1.0, 3.0, 8.0]),
    sampler=st.sampled_from(SAMPLERS),
)
def test_what_is_certain_equals_the_library(seed: int, spread: float, sampler: dict[str, Any]) -> None:
    params = sampling_params(**sampler)
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.standard_normal((20, VOCAB)) * spread).half()
    draws = random.random(20).tolist()
    tokens, certain = choose(most_likely(logits, cut(params).candidates), [cut(params)] * 20, draws)
    for row in np.flatnonzero(certain):
        assert tokens[row] == from_whole_row(logits[row], params, draws[row])


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_nearly_every_row_of_a_peaked_distribution_is_certain(sampler: dict[str, Any]) -> None:
    params = sampling_params(**sampler)
    random = np.random.default_rng(1)
    logits = torch.from_numpy(random.standard_normal((200, VOCAB)) * 8.0).half()
    _, certain = choose(most_likely(logits, cut(params).candidates), [cut(params)] * 200, random.random(200).tolist())
    assert certain.mean() > 0.9


@pytest.mark.parametrize("top_k", [1, 2, 3, 5, 8])
def test_equal_logits_at_the_border_are_kept_as_the_library_keeps_them(top_k: int) -> None:
    params = sampling_params(top_k=top_k)
    random = np.random.default_rng(top_k)
    logits = torch.from_numpy(random.integers(0, 3, (300, 12)).astype(np.float64)).half()
    draws = random.random(300).tolist()
    tokens, certain = choose(most_likely(logits, 12), [cut(params)] * 300, draws)
    assert certain.mean() > 0.9
    for row in np.flatnonzero(certain):
        assert tokens[row] == from_whole_row(logits[row], params, draws[row])


def test_a_draw_at_the_border_of_two_candidates_is_not_certain() -> None:
    logits = torch.tensor([[1.0, 1.0, -20.0, -20.0]]).half()
    params = sampling_params(top_k=2)
    for draw, expected in ((0.25, True), (0.5 / 0.9998, False), (0.75, True)):
        assert choose(most_likely(logits, 4), [cut(params)], [draw])[1][0] == expected


def test_a_nucleus_that_the_candidates_do_not_fill_is_the_librarys_capped_one() -> None:
    logits = torch.zeros((1, 4096)).half()
    _, certain = choose(most_likely(logits, 516), [cut(sampling_params(top_p=0.9))], [0.3])
    assert not certain[0]


def test_logits_that_are_no_numbers_are_not_certain() -> None:
    logits = torch.full((3, 64), float("nan")).half()
    cuts = [cut(sampling_params(**sampler)) for sampler in ({"top_k": 1}, {"top_k": 5}, {"min_p": 0.1})]
    assert not choose(most_likely(logits, 32), cuts, [0.5] * 3)[1].any()


def test_different_jobs_of_one_step_are_cut_each_in_its_own_way() -> None:
    random = np.random.default_rng(3)
    logits = torch.from_numpy(random.standard_normal((len(SAMPLERS), VOCAB)) * 6.0).half()
    params = [sampling_params(**sampler) for sampler in SAMPLERS]
    draws = random.random(len(SAMPLERS)).tolist()
    candidates = most_likely(logits, max(cut(each).candidates for each in params))
    tokens, certain = choose(candidates, [cut(each) for each in params], draws)
    assert certain.sum() > len(SAMPLERS) / 2
    for row in np.flatnonzero(certain):
        assert tokens[row] == from_whole_row(logits[row], params[row], draws[row])


@pytest.mark.parametrize(
    "sampler",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 600},
        {"typical_p": 0.9},
        {"tfs": 0.9},
        {"top_k": 50, "mirostat": True},
        {"top_k": 50, "logit_bias": {5: 1.0}},
        {"top_k": 50, "dry_multiplier": 0.8},
        {"top_k": 50, "xtc_probability": 0.5},
        {"top_k": 50, "frequency_penalty": 0.5},
        {"top_k": 50, "presence_penalty": -0.5},
        {"top_k": 50, "repetition_penalty": 0.9},
        {"top_k": 50, "repetition_penalty": 1.1, "repetition_range": 64},
        {"top_k": 50, "regex": "a+"},
        {"top_k": 50, "min_new_tokens": 5},
        {"top_k": 50, "temperature_last": True},
    ],
    ids=str,
)
def test_samplers_that_need_the_whole_row_get_it(sampler: dict[str, Any]) -> None:
    assert cut_of(sampling_params(**sampler)) is None


@given(st.lists(st.floats(-60000, 60000, width=16), min_size=2, max_size=50))
def test_candidates_come_most_likely_first_and_equal_ones_with_the_higher_id_first(values: list[float]) -> None:
    found = most_likely(torch.tensor([values]).half(), len(values))
    pairs = list(zip(found.values[0].tolist(), found.ids[0].tolist(), strict=True))
    expected = sorted(((float(v) + 0.0, i) for i, v in enumerate(torch.tensor(values).half().tolist())), reverse=True)
    assert pairs == expected
    assert np.isneginf(found.bound).all()
