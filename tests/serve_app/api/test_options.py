"""A request's fields as the pool's options."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import ContextLengthExceeded, ExlpoolError, InvalidRequest
from actors.request.options import RequestOptions
from actors.results import Priority
from actors.sampling import PARAMETER_NAMES
from serve_app.api.options import own_names, pool_options, with_own_seed
from serve_app.api.schemas.chat import ChatCompletionRequest
from serve_app.api.schemas.completions import CompletionRequest
from serve_app.caller import ANYBODY, Caller
from serve_app.config import ApiLimits
from serve_app.errors import PriorityNotAllowed


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}
    )


def options(
    request: ChatCompletionRequest | CompletionRequest,
    caller: Caller = ANYBODY,
    constraint: dict[str, str] | None = None,
) -> RequestOptions:
    return pool_options(request, caller, Priority.DEFAULT, ApiLimits(), constraint or {})


def test_nothing_asked_is_nothing_changed() -> None:
    made = options(chat())
    assert made.params.changed() == frozenset()
    assert made.timeout_s is None


EVERYTHING: dict[str, Any] = {
    "max_completion_tokens": 7,
    "min_tokens": 2,
    "seed": 5,
    "temperature": 0.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.1,
    "top_a": 0.1,
    "tfs": 0.9,
    "typical_p": 0.9,
    "skew": 0.1,
    "temperature_last": True,
    "smoothing_factor": 0.1,
    "min_temp": 0.5,
    "max_temp": 1.5,
    "temp_exponent": 2.0,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
    "mirostat_mode": 2,
    "mirostat_tau": 2.0,
    "mirostat_eta": 0.2,
    "repetition_penalty": 1.1,
    "repetition_range": 64,
    "repetition_decay": 4,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "dry_multiplier": 0.8,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_range": 100,
    "logit_bias": {"5": 1.5},
    "stop": "x",
    "stop_token_ids": [3],
    "ignore_eos": True,
    "banned_strings": ["y"],
    "token_healing": True,
    "logprobs": True,
    "top_logprobs": 4,
}


def test_every_parameter_of_the_pool_can_be_asked_for() -> None:
    made = options(chat(**EVERYTHING))
    grammars = {"json_schema", "regex", "lark"}
    assert made.params.changed() == PARAMETER_NAMES - grammars
    assert made.params.logit_bias == {5: 1.5}
    assert made.params.logprobs == 4
    assert made.params.stop == ("x",)
    for grammar in grammars:
        assert options(chat(), constraint={grammar: "{}"}).params.changed() == {grammar}


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ("typical", "typical_p"),
        ("dynatemp_low", "min_temp"),
        ("dynatemp_high", "max_temp"),
        ("dynatemp_exponent", "temp_exponent"),
        ("penalty_range", "repetition_range"),
        ("repetition_penalty_range", "repetition_range"),
        ("dry_penalty_last_n", "dry_range"),
        ("min_new_tokens", "min_tokens"),
        ("ban_eos_token", "ignore_eos"),
    ],
)
def test_other_servers_names_are_understood(other: str, field: str) -> None:
    assert options(chat(**{other: EVERYTHING[field]})).params == options(chat(**{field: EVERYTHING[field]})).params


@pytest.mark.parametrize("fields", [{"top_k": -1}, {"typical_p": 1.0}, {"tfs": 1.0}, {"mirostat_mode": 0}])
def test_other_servers_values_for_off_are_off(fields: dict[str, Any]) -> None:
    assert options(chat(**fields)).params.changed() == frozenset()


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 127))
def test_any_seed_of_openai_is_one_of_the_pool(seed: int, choice: int) -> None:
    made = options(chat(seed=seed))
    other = with_own_seed(made, choice)
    assert made.params.seed is not None
    assert other.params.seed == (made.params.seed + choice) % 2**63
    assert with_own_seed(options(chat()), choice).params.seed is None


def test_logprobs_of_both_apis() -> None:
    assert options(chat(logprobs=True)).params.logprobs == 0
    assert options(chat(logprobs=False)).params.logprobs is None
    completion = CompletionRequest.model_validate({"model": "m", "prompt": "x", "logprobs": 3})
    assert options(completion).params.logprobs == 3


@pytest.mark.parametrize(
    ("allowed", "wanted", "given_class"),
    [
        (Priority.INTERACTIVE, None, Priority.DEFAULT),
        (Priority.BATCH, None, Priority.BATCH),
        (Priority.INTERACTIVE, Priority.INTERACTIVE, Priority.INTERACTIVE),
        (Priority.DEFAULT, Priority.BATCH, Priority.BATCH),
        (Priority.DEFAULT, Priority.INTERACTIVE, None),
        (Priority.BATCH, Priority.DEFAULT, None),
    ],
)
def test_a_class_is_given_within_the_callers_limit(
    allowed: Priority, wanted: Priority | None, given_class: Priority | None
) -> None:
    caller = Caller("team", allowed)
    if given_class is None:
        with pytest.raises(PriorityNotAllowed):
            options(chat(priority=wanted), caller)
    else:
        made = options(chat(priority=wanted), caller)
        assert (made.priority, made.tenant) == (given_class, "team")


@pytest.mark.parametrize(
    ("fields", "param", "name"),
    [
        ({"max_tokens": 5}, "max_new_tokens", "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_new_tokens", "max_completion_tokens"),
        ({}, "min_new_tokens", "min_tokens"),
        ({}, "mirostat", "mirostat_mode"),
        ({}, "prompt", "messages"),
        ({"logprobs": True}, "logprobs", "top_logprobs"),
        ({"guided_regex": "a"}, "regex", "guided_regex"),
        ({"response_format": {"type": "json_object"}}, "json_schema", "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "lark", "tools"),
        ({}, "temperature", "temperature"),
        ({}, None, None),
    ],
)
def test_refusals_name_the_requests_own_field(fields: dict[str, Any], param: str | None, name: str | None) -> None:
    with pytest.raises(ContextLengthExceeded) as caught, own_names(chat(**fields)):
        raise ContextLengthExceeded(f"{param} is wrong.", param=param, retry_after_s=3.0)
    assert caught.value.param == name
    assert caught.value.retry_after_s == 3.0
    if param not in ("prompt", None):
        assert caught.value.message == f"{name} is wrong."


def test_combinations_that_cannot_be_are_refused() -> None:
    cases: list[dict[str, Any]] = [
        {"top_logprobs": 3},
        {"max_tokens": 3, "min_tokens": 4},
        {"min_temp": 2.0, "max_temp": 1.0},
        {"mirostat_mode": 1},
        {"dry_sequence_breakers": ["x"]},
    ]
    for fields in cases:
        with pytest.raises(InvalidRequest) as caught:
            options(chat(**fields))
        assert caught.value.param in fields


def test_the_servers_own_time_limit_counts_where_none_is_named() -> None:
    limits = ApiLimits(default_timeout_s=9.0)
    assert pool_options(chat(), ANYBODY, Priority.DEFAULT, limits, {}).timeout_s == 9.0
    assert pool_options(chat(timeout_s=2.5), ANYBODY, Priority.DEFAULT, limits, {}).timeout_s == 2.5


def test_errors_of_other_kinds_pass() -> None:
    with pytest.raises(ExlpoolError, match="x"), own_names(chat()):
        raise ExlpoolError("x")
