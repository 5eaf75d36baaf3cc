"""Which format a model writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken as RawToken
from tokenizers import Tokenizer, models

from actors.builtin_model import builtin_model_path
from actors.errors import ConfigurationError
from actors.request.prompt import PromptEncoder, TemplateOptions
from serve_app.api.tools import ToolChoice, plan_tools
from serve_app.models.tool_format import FORMATS, AddedToken, added_tokens, detect_format
from tests.serve_app.api.tools.offered import WEATHER

CALLS = "{% for call in message.tool_calls %}"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (CALLS + "<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}", "hermes"),
        (CALLS + "[TOOL_CALLS] [{{ call.function | tojson }}]{% endfor %}", "mistral"),
        ("<|start_header_id|>" + CALLS + """{{ '"parameters": ' + call | tojson }}{% endfor %}""", "llama3_json"),
        ("<|start_header_id|>{{ message.content }}", None),
        ("""{{ '"parameters": ' }}""", None),
        (CALLS + "<tool_call>\n<function={{ call.function.name }}>{% endfor %}", None),
        (CALLS + "<tool_call>{{ call.name }}\n<arg_key>{% endfor %}", None),
        (CALLS + "[TOOL_CALLS]{{ call.name }}[ARGS]{% endfor %}", None),
        ("{{ message.content }}", None),
        ("", None),
        (None, None),
    ],
)
def test_the_template_tells_the_format(template: str | None, name: str | None) -> None:
    found = detect_format(template, {})
    assert (found.name if found else None) == name


def test_a_configuration_names_the_format() -> None:
    assert detect_format(None, {}, configured="mistral") == FORMATS["mistral"]
    with pytest.raises(ConfigurationError, match=r"'xml'.*hermes"):
        detect_format("<tool_call>", {}, configured="xml")


def test_the_builtin_model_writes_hermes_in_plain_text() -> None:
    encoder = PromptEncoder.load(builtin_model_path())
    assert detect_format(encoder.template_source, added_tokens(encoder.tokenizer)) == FORMATS["hermes"]


def test_marks_that_are_tokens_are_known_by_their_id() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([RawToken("<tool_call>"), RawToken("</tool_call>")])
    tokenizer.add_special_tokens([RawToken("[TOOL_CALLS]")])
    tokens = added_tokens(tokenizer)
    assert tokens["[TOOL_CALLS]"] == AddedToken(2, special=True)
    hermes = detect_format("<tool_call>", tokens)
    assert hermes is not None
    assert dict(hermes.token_ids) == {"<tool_call>": 0, "</tool_call>": 1}
    assert not hermes.may_begin_bare
    mistral = detect_format("[TOOL_CALLS]", tokens)
    assert mistral is not None
    assert dict(mistral.token_ids) == {"[TOOL_CALLS]": 2}
    assert mistral.may_begin_bare


def test_a_call_that_comes_back_reads_as_the_model_wrote_it() -> None:
    encoder = PromptEncoder.load(builtin_model_path())
    written = '<tool_call>{"name": "get_weather", "arguments": {"city": "Malmö"}}</tool_call>'
    plan = plan_tools([WEATHER], ToolChoice("auto"), tool_format=FORMATS["hermes"])
    started, arguments = plan.parser().push(written)
    call = {"id": started.call_id, "function": {"name": started.name, "arguments": json.loads(arguments.fragment)}}  # type: ignore[union-attr]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    options = TemplateOptions(tools=plan.template_tools, add_generation_prompt=False)
    ids = encoder.encode(messages, options)
    assert encoder.tokenizer.decode(ids).endswith(written)
