"""Sampling parameters are checked where they are made, and every fault is told by its field's name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidRequest
from actors.sampling import MAX_SEED, PARAMETER_NAMES, SamplingParams, sampling_params

NAN, INFINITY = float("nan"), float("inf")
WRONG: list[dict[str, Any]] = [
    {"temperature": NAN},
    {"temperature": INFINITY},
    {"temperature": -0.1},
    {"temperature": 101.0},
    {"temperature": "warm"},
    {"temperature": None},
    {"temperature": True},
    {"top_k": -1},
    {"top_k": 1.5},
    {"top_k": 2**31},
    {"repetition_range": 10**50},
    {"top_k": True},
    {"top_p": 1.1},
    {"top_p": -0.1},
    {"top_p": NAN},
    {"min_p": 2.0},
    {"typical_p": NAN},
    {"skew": NAN},
    {"repetition_penalty": 0.0},
    {"repetition_penalty": 5e-324},
    {"repetition_penalty": NAN},
    {"repetition_range": -2},
    {"presence_penalty": 2.5},
    {"frequency_penalty": -INFINITY},
    {"xtc_probability": 1.5},
    {"max_new_tokens": 0},
    {"max_new_tokens": "9"},
    {"max_new_tokens": 3.0},
    {"min_new_tokens": -1},
    {"seed": -1},
    {"seed": MAX_SEED + 1},
    {"logit_bias": {5: 101.0}},
    {"logit_bias": {5: NAN}},
    {"logit_bias": {"five": 1.0}},
    {"logit_bias": [5]},
    {"logit_bias": dict.fromkeys(range(1025), 1.0)},
    {"stop": ["a", ""]},
    {"stop": ""},
    {"stop": [5]},
    {"stop": "x" * 257},
    {"stop": ["x"] * 65},
    {"stop_token_ids": [-1]},
    {"stop_token_ids": ["a"]},
    {"stop_token_ids": [True]},
    {"banned_strings": [""]},
    {"logprobs": 21},
    {"logprobs": -1},
    {"ignore_eos": 1},
    {"json_schema": 5},
    {"regex": 5},
    {"colour": "red"},
]


@pytest.mark.parametrize("values", WRONG, ids=lambda values: str(values)[:40])
def test_a_wrong_value_is_refused_by_name(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(InvalidRequest, match=name) as caught:
        sampling_params(**values)
    assert caught.value.param == name
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


TOGETHER: list[tuple[dict[str, Any], str]] = [
    ({"json_schema": {}, "regex": "a"}, "json_schema"),
    ({"regex": "a", "lark": "start: A"}, "json_schema"),
    ({"min_new_tokens": 5, "max_new_tokens": 4}, "min_new_tokens"),
    ({"min_temp": 2.0, "max_temp": 1.0}, "max_temp"),
    ({"banned_strings": ["x"], "regex": "a"}, "banned_strings"),
]


@pytest.mark.parametrize(("values", "param"), TOGETHER)
def test_values_that_exclude_each_other_are_refused(values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sampling_params(**values)
    assert caught.value.param == param


@given(st.dictionaries(st.sampled_from(sorted(PARAMETER_NAMES)), st.floats() | st.integers() | st.text() | st.none()))
def test_anything_else_is_either_valid_or_refused_with_a_field(values: dict[str, Any]) -> None:
    refused: InvalidRequest | None = None
    changed: frozenset[str] = frozenset()
    try:
        changed = sampling_params(**values).changed()
    except InvalidRequest as error:
        refused = error
    assert changed <= set(values)
    assert refused is None or refused.param in PARAMETER_NAMES


def test_single_values_lists_and_none_become_tuples() -> None:
    assert sampling_params(stop="a").stop == ("a",)
    assert sampling_params(stop=["a", "b"]).stop == ("a", "b")
    assert sampling_params(stop=None).stop == ()
    assert sampling_params(stop_token_ids=5).stop_token_ids == (5,)
    assert sampling_params(banned_strings=("a",)).banned_strings == ("a",)


def test_integers_of_other_libraries_are_integers() -> None:
    params = sampling_params(top_k=np.int64(5), seed=torch.tensor(7), stop_token_ids=[np.int32(3)], temperature=1)
    assert (params.top_k, params.seed, params.stop_token_ids, params.temperature) == (5, 7, (3,), 1.0)
    assert type(params.top_k) is int


def test_only_what_differs_from_neutral_counts_as_changed() -> None:
    assert sampling_params().changed() == frozenset()
    assert sampling_params(temperature=1.0, top_k=0, stop=[]).changed() == frozenset()
    assert sampling_params(temperature=0.0, seed=0).changed() == {"temperature", "seed"}
    assert {field.name for field in fields(SamplingParams)} == PARAMETER_NAMES


def test_a_grammar_is_one_of_three_kinds() -> None:
    assert sampling_params().grammar is None
    assert sampling_params(json_schema={"type": "object"}).grammar == ("json_schema", '{"type": "object"}')
    assert sampling_params(json_schema='{"type": "object"}').grammar == ("json_schema", '{"type": "object"}')
    assert sampling_params(regex="a+").grammar == ("regex", "a+")
    assert sampling_params(lark='start: "a"').grammar == ("lark", 'start: "a"')


def test_a_temperature_that_engines_cannot_divide_by_is_greedy() -> None:
    assert sampling_params(temperature=5e-324).temperature == 0.0
    assert sampling_params(temperature=1e-3).temperature == 1e-3
