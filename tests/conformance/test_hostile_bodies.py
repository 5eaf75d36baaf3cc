"""Bodies that are no text, no JSON, or too much of it: 4xx in OpenAI's shape, and the next request is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.schemas.chat import ChatCompletionRequest
from tests.conformance.asking import SUM, SUM_ANSWER, tool
from tests.conformance.server import MODEL, SHORT, Server
from tests.conformance.wire import answer, with_body
from tests.properties import examples

pytestmark = pytest.mark.ray

FUZZ = examples(150)
BASE: dict[str, Any] = {"model": SHORT, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


@pytest.fixture(autouse=True)
def healthy(client: openai.OpenAI) -> Iterator[None]:
    """Whatever a test sent: the next request is served."""
    yield
    answered = client.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
    assert answered.choices[0].message.content == SUM_ANSWER


def chat(fields: str) -> bytes:
    """A chat with these fields, which are JSON without braces or look like it."""
    return (json.dumps(BASE)[:-1] + ", " + fields + "}").encode("utf-8", "surrogatepass")


def in_message(text: bytes) -> bytes:
    return json.dumps(BASE).encode().replace(b"Hi", text)


@pytest.mark.parametrize(
    "body",
    [
        in_message(b"\xff\xfe"),
        in_message(b"\xc3\x28"),
        in_message(b"\xed\xa0\x80"),
        in_message(b"\xf8\x88\x80\x80\x80"),
        in_message(b"\\ud800"),
        in_message(b"\\udc00\\ud800"),
        in_message(b"a\x00b"),
        in_message(b"\\x41"),
        json.dumps(BASE).encode("utf-16"),
        json.dumps(BASE).encode("utf-32-le"),
        b"\xef\xbb\xbf" + json.dumps(BASE).encode(),
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}{}",
        json.dumps(BASE).encode() + b"x",
        b"{'model': 'short'}",
        b'{"model": "short", "messages": [1,]}',
    ],
)
def test_what_is_no_json_text(server: Server, body: bytes) -> None:
    found = answer(server, with_body(server, body))
    assert found.status == 400
    assert found.error()["code"] == "invalid_request"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000, "1e308", "-0.1"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "n", "max_tokens", "seed", "timeout_s", "top_k"])
def test_numbers_that_are_none(server: Server, field: str, value: str) -> None:
    found = answer(server, with_body(server, chat(f'"{field}": {value}')))
    assert found.status == 400
    assert found.error()["param"] in (field, None)


@pytest.mark.parametrize("value", ["NaN", "1e999", "1" * 5000, "-1e999"])
def test_numbers_inside_of_other_things(server: Server, value: str) -> None:
    for fields in (
        f'"logit_bias": {{"5": {value}}}',
        f'"stop_token_ids": [{value}]',
        f'"chat_template_kwargs": {{"x": {value}}}',
        f'"guided_json": {{"minimum": {value}}}',
        f'"unknown": {value}',
    ):
        found = answer(server, with_body(server, chat(fields)))
        if found.status != 200:
            found.error()


@pytest.mark.parametrize("depth", [50, 500, 5_000, 200_000])
def test_deep_nesting(server: Server, depth: int) -> None:
    lists, objects = "[" * depth + "]" * depth, '{"a": ' * depth + "1" + "}" * depth
    schema = '{"type": "object", "properties": {"a": ' * depth + "{}" + "}}" * depth
    function = '{{"type": "function", "function": {{"name": "f", "parameters": {0}}}}}'
    for fields in (
        f'"unknown": {lists}',
        f'"stop": {lists}',
        f'"messages": {lists}',
        f'"chat_template_kwargs": {objects}',
        f'"guided_json": {schema}',
        f'"response_format": {{"type": "json_schema", "json_schema": {{"name": "x", "schema": {schema}}}}}',
        f'"tools": [{function.format(schema)}], "tool_choice": "required"',
        f'"messages": [{{"role": "user", "content": "x", "more": {objects}}}]',
    ):
        found = answer(server, with_body(server, chat(fields)))
        if found.status != 200:
            found.error()
    if depth >= 5_000:
        for body in (lists, objects, "[" * depth):
            assert answer(server, with_body(server, body.encode())).status == 400


WIDE: list[dict[str, Any]] = [
    {"logit_bias": {str(number): 1 for number in range(100_000)}},
    {"stop": ["x"] * 10_000},
    {"stop": "x" * 100_000},
    {"stop_token_ids": list(range(100_000))},
    {"messages": [{"role": "user", "content": "x"}] * 20_000},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 50_000}]},
    {"tools": [tool(f"f{number}", a="string") for number in range(3_000)]},
    {"tools": [tool(f"f{number}", a="string") for number in range(300)], "tool_choice": "required"},
    {"model": "x" * 1_000_000},
    {"user": "x" * 1_000_000},
    {"unknown": ["x"] * 500_000},
    {"chat_template_kwargs": {f"k{number}": number for number in range(50_000)}},
    {"guided_regex": "(a{1,1000}){1,1000}"},
    {"guided_regex": "(x+x+)+y" * 200},
    {"guided_regex": "[^a]" * 100_000},
    {"guided_grammar": "start: " + " | ".join(f'"{number}"' for number in range(20_000))},
    {"guided_grammar": "start: start start | start"},
    {"guided_json": {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(5_000)}}},
    {"guided_json": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}}},
    {"guided_json": {"type": "string", "minLength": 10**9}},
    {"guided_json": {"$ref": "#"}},
    {"guided_json": {"$ref": "file:///etc/passwd"}},
    {"guided_json": {"enum": [f"v{number}" for number in range(50_000)]}},
    {"guided_json": {"type": "string", "pattern": "(a|a)*" * 500}},
]


@pytest.mark.parametrize("fields", WIDE, ids=lambda fields: json.dumps(fields)[:40])
def test_very_much_of_something(server: Server, fields: dict[str, Any]) -> None:
    found = answer(server, with_body(server, json.dumps({**BASE, **fields}).encode()))
    if found.status != 200:
        found.error()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", "auto", "required", "json_object", "text", "function", "user", "tool", "\ud800", "\x00"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "name", "function", "role", "content", "schema", "5", ""]), inner)
    ),
    max_leaves=8,
)


@FUZZ
@given(
    st.dictionaries(st.sampled_from(sorted(ChatCompletionRequest.model_fields)), json_values, min_size=1, max_size=3),
    st.booleans(),
)
def test_any_json_in_any_field(server: Server, fields: dict[str, Any], stream: bool) -> None:
    body = json.dumps({**BASE, "stream": stream, **fields}).encode()
    found = answer(server, with_body(server, body))
    if found.status == 504:
        assert "timeout_s" in fields
    elif found.status != 200:
        found.error()
