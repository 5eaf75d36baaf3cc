"""A caller's keywords become options, or one typed error that names what was wrong."""

from __future__ import annotations

from typing import Any

import pytest

from actors.errors import InvalidRequest
from actors.request.options import MAX_TENANT_CHARACTERS, request_options
from actors.results import Priority

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
    {"template_variables": {"self": 1}},
    {"template_variables": {"range": 1}},
    {"self": 1},
    {"cls": 1},
    {"params": {}},
    {"sampling": {}},
    {"values": {}},
    {"template": {}},
    {"json_schema": {"enum": {1}}},
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
