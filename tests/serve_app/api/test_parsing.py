"""Bodies: whatever bytes arrive, the answer is a request or one sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from actors.errors import InvalidRequest
from serve_app.api.parsing import parse_body
from serve_app.api.schemas.chat import ChatCompletionRequest
from serve_app.api.schemas.common import RequestModel
from serve_app.api.schemas.completions import CompletionRequest
from serve_app.api.schemas.tokenize import DetokenizeRequest, TokenizeRequest
from serve_app.errors import UnsupportedBody
from tests.properties import examples

SCHEMAS: list[type[RequestModel]] = [ChatCompletionRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def request_of(body: bytes, content_type: str = "application/json", *codings: str) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", content_type.encode("latin-1"))]
    headers += [(b"content-encoding", coding.encode("latin-1")) for coding in codings]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


@given(body=st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
@examples(200)
async def test_any_body_is_taken_or_refused(body: bytes) -> None:
    for schema in SCHEMAS:
        with suppress(InvalidRequest):
            made, size = await parse_body(request_of(body), schema)
            assert isinstance(made, schema)
            assert size == len(body)


@given(field=st.sampled_from(sorted(ChatCompletionRequest.model_fields)), value=JSON_VALUES)
@examples(500)
async def test_any_value_of_a_field_is_taken_or_the_field_is_named(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}], field: value}
    try:
        await parse_body(request_of(json.dumps(fields).encode()), ChatCompletionRequest)
    except InvalidRequest as error:
        told = error.param or error.message
        assert told.startswith((field, "The body is not valid JSON")), told


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"messages": [{"role": "user", "content": "x"}]}, "model", "Missing"),
        ({"model": "m"}, "messages", "Missing"),
        ({"model": "m", "messages": [{"role": "user", "content": "x"}, {"role": 5}]}, "messages[1].role", "string"),
        (
            {"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "Missing",
        ),
        ({"model": "m", "messages": [{"role": "a b"}]}, "messages[0].role", "pattern"),
        ({"model": "m", "messages": [{"role": "user"}], "tools": [{}]}, "tools[0].type", "Missing"),
        ({"model": "m", "messages": [{"role": "user"}], "tool_choice": {"type": "x"}}, "tool_choice.type", "function"),
        ({"model": "m", "messages": [{"role": "user"}], "logit_bias": {"a b": 1}}, "logit_bias", "pattern"),
    ],
)
async def test_the_field_that_is_wrong_is_named(fields: dict[str, Any], param: str, word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await parse_body(request_of(json.dumps(fields).encode()), ChatCompletionRequest)
    assert caught.value.param == param
    assert word in caught.value.message


@given(st.text(max_size=40))
async def test_only_json_is_json(content_type: str) -> None:
    try:
        header = content_type.encode("latin-1")
    except UnicodeEncodeError:
        return
    request = request_of(b'{"tokens": []}', header.decode("latin-1"))
    with suppress(UnsupportedBody):
        await parse_body(request, DetokenizeRequest)
        assert "json" in content_type.lower()


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/problem+json",
        "APPLICATION/JSON;charset=UTF-8",
        'application/json; charset="utf8"',
        "application/json; charset=us-ascii",
    ],
)
async def test_ways_to_say_json(content_type: str) -> None:
    await parse_body(request_of(b'{"tokens": [1]}', content_type), DetokenizeRequest)


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "x", "", '"', "*=utf-9''x", "utf-8\xff"])
async def test_json_in_another_charset_is_refused(charset: str) -> None:
    with pytest.raises(UnsupportedBody) as caught:
        await parse_body(request_of(b'{"tokens": [1]}', f"application/json; charset={charset}"), DetokenizeRequest)
    assert caught.value.param == "Content-Type"


@pytest.mark.parametrize("codings", [["gzip"], ["identity", "br"], ["identity, deflate"], ["\xff"], ["GZIP"]])
async def test_a_body_that_was_packed_is_refused(codings: list[str]) -> None:
    with pytest.raises(UnsupportedBody) as caught:
        await parse_body(request_of(b'{"tokens": [1]}', "application/json", *codings), DetokenizeRequest)
    assert (caught.value.status, caught.value.param) == (415, "Content-Encoding")


@pytest.mark.parametrize("codings", [[""], ["identity"], ["Identity, identity"]])
async def test_a_body_as_it_is_may_say_so(codings: list[str]) -> None:
    await parse_body(request_of(b'{"tokens": [1]}', "application/json", *codings), DetokenizeRequest)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_field_that_may_be_left_out_may_be_null(schema: type[RequestModel]) -> None:
    for name, field in schema.model_fields.items():
        if not field.is_required():
            assert field.default is None, f"{name} has a default that null does not mean"
            kinds = schema.model_json_schema()["properties"][name]
            anything = "anyOf" not in kinds and "type" not in kinds
            assert anything or {"type": "null"} in kinds.get("anyOf", []), name
