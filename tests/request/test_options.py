"""A caller's keywords and prompt become a checked request, or one typed error that names what was wrong."""

from __future__ import annotations

from typing import Any

import pytest

from actors.builtin_model import builtin_model_path
from actors.errors import ContextLengthExceeded, InvalidRequest
from actors.messages import WorkerLimits
from actors.request.options import MAX_TENANT_CHARACTERS, request_options
from actors.request.prepare import prepare
from actors.request.prompt import PromptEncoder
from actors.results import Priority
from actors.sampling import PARAMETER_NAMES

LIMITS = WorkerLimits(
    engine="cpu",
    model="tiny",
    context_tokens=4096,
    total_pages=16,
    max_batch_size=4,
    vocab_size=2048,
    eos_token_ids=(2,),
    supported_parameters=PARAMETER_NAMES,
)
WRONG: list[dict[str, Any]] = [
    {"priority": "urgent"},
    {"priority": None},
    {"priority": []},
    {"tenant": 5},
    {"tenant": "x" * (MAX_TENANT_CHARACTERS + 1)},
    {"timeout_s": 0},
    {"timeout_s": -1.0},
    {"timeout_s": float("nan")},
    {"timeout_s": float("inf")},
    {"timeout_s": True},
    {"timeout_s": "5"},
    {"tools": "add"},
    {"tools": {"name": "add"}},
    {"tools": ["add"]},
    {"add_generation_prompt": "yes"},
    {"continue_final_message": 1},
    {"template_variables": 5},
    {"template_variables": {5: 6}},
    {"template_variables": {"messages": []}},
    {"template_variables": {"add_generation_prompt": False}},
    {"temperature": float("nan")},
    {"colour": "red"},
]


@pytest.mark.parametrize("keywords", WRONG, ids=lambda keywords: str(keywords)[:40])
def test_a_wrong_keyword_is_refused_by_name(keywords: dict[str, Any]) -> None:
    (name,) = keywords
    with pytest.raises(InvalidRequest, match=name) as caught:
        request_options(**keywords)
    assert caught.value.param == name


def test_keywords_become_options() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    options = request_options(
        priority="batch",
        tenant="team",
        timeout_s=5,
        tools=tools,
        continue_final_message=True,
        template_variables={"enable_thinking": False},
        temperature=0.5,
        stop="x",
    )
    assert (options.priority, options.tenant, options.timeout_s) == (Priority.BATCH, "team", 5)
    assert (options.params.temperature, options.params.stop) == (0.5, ("x",))
    assert (options.template.tools, options.template.continue_final_message) == (tools, True)
    assert options.template.variables == {"enable_thinking": False}
    assert request_options().priority is Priority.DEFAULT


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder.load(builtin_model_path())


def test_a_prepared_request_has_everything_resolved(encoder: PromptEncoder) -> None:
    options = request_options(seed=7)
    request = prepare(encoder, "Once upon a time,", options, (LIMITS,), 256)
    assert request.token_ids == encoder.encode("Once upon a time,")
    assert (request.max_new_tokens, request.seed, request.options) == (256, 7, options)


def test_requests_without_a_seed_differ_in_theirs_and_in_their_id(encoder: PromptEncoder) -> None:
    made = [prepare(encoder, [5], request_options(), (LIMITS,), 256) for _ in range(50)]
    assert len({request.seed for request in made}) == len({request.request_id for request in made}) == 50
    assert all(0 <= request.seed < 2**63 for request in made)


def test_what_does_not_fit_is_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(ContextLengthExceeded):
        prepare(encoder, [5] * 4096, request_options(), (LIMITS,), 256)
    with pytest.raises(ContextLengthExceeded):
        prepare(encoder, [5], request_options(max_new_tokens=4096), (LIMITS,), 256)
