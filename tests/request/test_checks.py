"""Nothing that could harm an engine's other jobs gets past validation, and lengths are resolved here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from actors.messages import WorkerLimits
from actors.request.checks import room_tokens, validate_request
from actors.sampling import sampling_params

LIMITS = WorkerLimits(
    engine="cpu",
    model="tiny",
    context_tokens=1000,
    total_pages=8,
    max_batch_size=4,
    vocab_size=100,
    eos_token_ids=(2,),
    supported_parameters=frozenset({"max_new_tokens", "min_new_tokens", "temperature", "stop_token_ids", "logit_bias"}),
)
DEFAULT = 256


def check(prompt_tokens: int, *limits: WorkerLimits, **params: Any) -> int:
    return validate_request([1] * prompt_tokens, sampling_params(**params), limits or (LIMITS,), DEFAULT)


def test_the_completion_is_as_long_as_asked_else_the_default_else_what_is_left() -> None:
    assert check(10, max_new_tokens=5) == 5
    assert check(10) == DEFAULT
    assert check(900) == 100
    assert check(999) == 1
    assert check(10, min_new_tokens=300) == 300


def test_prompt_and_completion_must_fit_the_context() -> None:
    assert check(10, max_new_tokens=990) == 990
    for values in ({"max_new_tokens": 991}, {"min_new_tokens": 991}):
        with pytest.raises(ContextLengthExceeded, match=r"990|991") as caught:
            check(10, **values)
        assert caught.value.param == "max_new_tokens"
    with pytest.raises(ContextLengthExceeded, match="1000") as caught:
        check(1000)
    assert caught.value.param == "prompt"


def test_pages_bound_a_request_where_they_are_fewer_than_the_context() -> None:
    narrow = replace(LIMITS, total_pages=2)
    assert room_tokens(narrow) == 512
    assert room_tokens(replace(narrow, reserve_tokens=10)) == 502
    assert check(500, narrow) == 12
    with pytest.raises(ContextLengthExceeded, match="512"):
        check(500, narrow, max_new_tokens=13)


def test_one_worker_with_room_is_enough() -> None:
    assert check(600, replace(LIMITS, total_pages=2), LIMITS, max_new_tokens=400) == 400


@pytest.mark.parametrize(
    ("ids", "params", "param"),
    [
        ([], {}, "prompt"),
        ([1, 100], {}, "prompt"),
        ([1, -1], {}, "prompt"),
        ([2**70], {}, "prompt"),
        ([1], {"stop_token_ids": [100]}, "stop_token_ids"),
        ([1], {"logit_bias": {100: 1.0}}, "logit_bias"),
        ([1], {"logit_bias": {-1: 1.0}}, "logit_bias"),
    ],
)
def test_ids_outside_the_vocabulary_and_empty_prompts_are_refused(
    ids: list[int], params: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_request(ids, sampling_params(**params), (LIMITS,), DEFAULT)
    assert caught.value.param == param


def test_the_smallest_vocabulary_of_the_workers_counts() -> None:
    with pytest.raises(InvalidRequest, match="vocabulary of 50"):
        validate_request([60], sampling_params(), (LIMITS, replace(LIMITS, vocab_size=50)), DEFAULT)


def test_what_no_worker_honours_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedParameter, match="cpu engine does not support top_k") as caught:
        check(10, top_k=5)
    assert caught.value.param == "top_k"
    able = replace(LIMITS, supported_parameters=LIMITS.supported_parameters | {"top_k"})
    assert check(10, LIMITS, able, top_k=5) == DEFAULT


@given(st.integers(1, 1200), st.none() | st.integers(1, 1200), st.integers(0, 1200), st.integers(1, 6))
def test_what_is_let_through_fits(prompt_tokens: int, wanted: int | None, least: int, pages: int) -> None:
    limits = replace(LIMITS, total_pages=pages)
    if wanted is not None and least > wanted:
        least = wanted
    try:
        length = check(prompt_tokens, limits, max_new_tokens=wanted, min_new_tokens=least)
    except ContextLengthExceeded:
        assert prompt_tokens + max(wanted or 1, least) > room_tokens(limits)
    else:
        assert prompt_tokens + length <= room_tokens(limits)
        assert length >= max(least, 1)
        assert wanted in (None, length)
