"""Templates render as transformers renders them, in a sandbox, and fail as typed errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from actors.builtin_model import builtin_model_path
from actors.errors import InvalidRequest, ModelError
from actors.request.chat_template import RESERVED_VARIABLES, ChatTemplate

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Grüße, 你好 & <b>"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "More?"},
]
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "add", "parameters": {"é": [1, 2.5, None]}}}]

TEMPLATES = {
    "blocks are trimmed": "{{ bos_token }}\n{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n"
    "  {% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\nA:\n{% endif %}\n",
    "tojson keeps letters": "{{ messages | tojson }}{{ tools | tojson(indent=2) }}",
    "break and continue": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}"
    "{% break %}{% endfor %}",
    "generation is for training": "{% for m in messages %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% endfor %}",
    "namespaces": "{% set n = namespace(c=0) %}{% for m in messages %}{% set n.c = n.c + 1 %}{% endfor %}{{ n.c }}",
}


@pytest.fixture(scope="module")
def oracle() -> Any:
    """transformers' own rendering, on a tokenizer with our variables."""
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_file=str(builtin_model_path() / "tokenizer.json"), **VARIABLES)


@pytest.mark.parametrize("generation_prompt", [False, True])
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
def test_text_is_what_transformers_renders(oracle: Any, source: str, generation_prompt: bool) -> None:
    expected = oracle.apply_chat_template(
        MESSAGES, tools=TOOLS, chat_template=source, tokenize=False, add_generation_prompt=generation_prompt
    )
    ours = ChatTemplate(source, VARIABLES).render(MESSAGES, tools=TOOLS, add_generation_prompt=generation_prompt)
    assert ours == expected


def test_a_final_message_can_be_continued(oracle: Any) -> None:
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    messages = [*MESSAGES, {"role": "assistant", "content": "Well, the"}]
    expected = oracle.apply_chat_template(
        messages, chat_template=source, tokenize=False, continue_final_message=True, add_generation_prompt=False
    )
    ours = ChatTemplate(source, VARIABLES).render(messages, continue_final_message=True)
    assert ours == expected
    assert ours.endswith("[assistant]Well, the")
    with pytest.raises(InvalidRequest, match="continue_final_message"):
        ChatTemplate(source, {}).render([{"role": "assistant", "content": None}], continue_final_message=True)


def test_variables_of_a_request_reach_the_template() -> None:
    template = ChatTemplate("{{ 'deep' if enable_thinking else 'flat' }}", {})
    assert template.render(MESSAGES, variables={"enable_thinking": True}) == "deep"
    assert template.render(MESSAGES) == "flat"


@pytest.mark.parametrize("name", sorted(RESERVED_VARIABLES))
def test_a_variable_with_a_name_that_is_taken_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match=name) as caught:
        ChatTemplate("{{ messages[0].content }}", {}).render(MESSAGES, variables={name: 5})
    assert caught.value.param == "template_variables"


@pytest.mark.parametrize(
    "name", ["args", "context", "environment", "eval_ctx", "variables", "not a name", "", "__class__"]
)
def test_any_other_name_is_a_variable(name: str) -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    assert template.render(MESSAGES, variables={name: 5}) == "Be kind."
    if name.isidentifier():
        assert ChatTemplate("{{ " + name + " }}", {}).render(MESSAGES, variables={name: 5}) == "5"


def test_every_function_that_templates_are_given_is_reserved() -> None:
    assert set(ChatTemplate("", {})._template.environment.globals) <= RESERVED_VARIABLES


def test_today_is_there() -> None:
    assert re.fullmatch(r"\d{4}", ChatTemplate("{{ strftime_now('%Y') }}", {}).render(MESSAGES))


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[9].content }}",
        "{{ messages[0].content + 5 }}",
        "{{ [1] | tojson(indent='x', nothing=1) }}",
        "{{ 'x' * 10 ** 30 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ 1 // (messages | length - 4) }}",
        "{{ 2.0 ** 5000 }}",
        "{{ [1][messages | length] + 1 }}",
        "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
        "{{ messages | sum(attribute='content') }}",
        "{{ 5 | dictsort }}",
    ],
)
def test_what_a_template_refuses_is_a_bad_request(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template refuses") as caught:
        ChatTemplate(source, {}).render(MESSAGES)
    assert caught.value.param == "messages"


def test_a_template_comes_from_its_own_file_else_from_the_settings(tmp_path: Path) -> None:
    assert ChatTemplate.load(tmp_path, {}) is None
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text("{}")
    assert ChatTemplate.load(tmp_path, {}) is None
    settings.write_text(json.dumps({"chat_template": "settings"}))
    assert rendered(tmp_path) == "settings"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "the default"}]
    settings.write_text(json.dumps({"chat_template": named}))
    assert rendered(tmp_path) == "the default"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert rendered(tmp_path) == "file"


def rendered(directory: Path) -> str:
    template = ChatTemplate.load(directory, {})
    assert template is not None
    return template.render(MESSAGES)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", b"{% for %}"),
        ("chat_template.jinja", b"\xff\xff"),
        ("tokenizer_config.json", b"{"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"\xff"),
    ],
)
def test_a_damaged_file_is_a_fault_of_the_model(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError):
        ChatTemplate.load(tmp_path, {})
