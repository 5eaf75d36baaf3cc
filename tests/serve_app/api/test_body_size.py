"""Bodies are bounded before they are made into anything: in values, and in the errors that wrong ones make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.errors import InvalidRequest
from serve_app.api import body_size
from serve_app.api.body_size import MAX_CONTAINERS, MAX_ENTRIES, MAX_VALUES, holds_too_much, may_hold_too_much
from serve_app.api.parsing import parse_body
from serve_app.api.schemas.common import GenerationFields, RequestModel
from serve_app.api.schemas.completions import CompletionRequest
from serve_app.errors import BodyTooComplex
from tests.serve_app.api.test_parsing import JSON_VALUES, SCHEMAS, request_of

ITEMS = 400_000
MAX_ERRORS = 30
"""Of one body, whatever is wrong with it: some per field and member of a union, none per item."""
WRONG_ITEMS = ("null", '"a"', "5.5", "{}")
WRONG_ENTRIES = ("null", "5000")


@dataclass(frozen=True)
class Place:
    """Where a schema has a list, or a mapping with checked values: the JSON before and behind it."""

    path: str
    kind: str
    before: str = ""
    behind: str = ""

    def inside(self, path: str, before: str, behind: str) -> Place:
        return Place(path + self.path, self.kind, before + self.before, self.behind + behind)


def places(node: Any, defs: Any) -> Iterator[Place]:
    if "$ref" in node:
        node = defs[node["$ref"].rpartition("/")[2]]
    if "properties" in node:
        for name, field in node["properties"].items():
            for place in places(field, defs):
                yield place.inside(f".{name}", f'{{"{name}":', "}")
    elif "anyOf" in node:
        for option in node["anyOf"]:
            yield from places(option, defs)
    elif node.get("type") == "array":
        yield Place("", "array")
        for place in places(node["items"], defs):
            yield place.inside("[0]", "[", "]")
    elif isinstance(node.get("additionalProperties"), dict) or "patternProperties" in node:
        yield Place("", "object")


def all_places() -> list[Any]:
    """Fields that chats and completions share are looked at once."""
    found: dict[str, Any] = {}
    for schema in SCHEMAS:
        document = schema.model_json_schema()
        for place in places(document, document.get("$defs", {})):
            shared = place.path[1:].partition("[")[0] in GenerationFields.model_fields
            name = place.path if shared else schema.__name__ + place.path
            found.setdefault(name, pytest.param(schema, place, id=name))
    return list(found.values())


def test_the_places_are_found() -> None:
    found = {str(place.id) for place in all_places()}
    assert {
        "ChatCompletionRequest.messages",
        "ChatCompletionRequest.messages[0].content",
        ".logit_bias",
        "CompletionRequest.prompt[0]",
        "TokenizeRequest.tools",
    } <= found


def errors_made(schema: type[RequestModel], body: bytes) -> int:
    try:
        schema.model_validate_json(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize(("schema", "place"), all_places())
async def test_items_that_are_wrong_make_few_errors(schema: type[RequestModel], place: Place) -> None:
    if place.kind == "array":
        wrongs = ["[" + ",".join([item] * ITEMS) + "]" for item in WRONG_ITEMS]
    else:
        wrongs = ["{" + ",".join(f'"{key}":{entry}' for key in range(ITEMS)) + "}" for entry in WRONG_ENTRIES]
    for wrong in wrongs:
        body = (place.before + wrong + place.behind).encode()
        assert 0 < errors_made(schema, body) <= MAX_ERRORS
    with pytest.raises(InvalidRequest) as caught:
        await parse_body(request_of(body), schema)
    assert caught.value.status == 400
    assert len(caught.value.message) < 400


async def test_many_token_ids_are_taken() -> None:
    body = json.dumps({"model": "m", "prompt": list(range(100_000))}).encode()
    made, _ = await parse_body(request_of(body), CompletionRequest)
    assert made.prompts == [list(range(100_000))]


async def test_text_counts_as_one_value_whatever_stands_in_it() -> None:
    text = '[{"code": "a, b", },' * 150_000 + "\\"
    body = json.dumps({"model": "m", "prompt": text}).encode()
    assert may_hold_too_much(body)
    made, _ = await parse_body(request_of(body), CompletionRequest)
    assert made.prompt == text


@pytest.mark.parametrize(
    "value",
    [
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        "[" + "[]," * MAX_CONTAINERS + "1]",
        "[" + "{}," * MAX_CONTAINERS + "1]",
        "[" + "1," * MAX_VALUES + "1]",
        "[" + '"",' * MAX_VALUES + "1]",
        "{" + ",".join(f'"{number}":0' for number in range(MAX_ENTRIES + 1)) + "}",
    ],
    ids=["open", "deep", "lists", "objects", "numbers", "texts", "keys"],
)
@pytest.mark.parametrize("field", ["prompt", "guided_json", "stop", "nobody_knows_it"])
async def test_too_many_values_are_refused_unread(field: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f'{{"model": "m", "{field}": {value}}}'.encode()
    monkeypatch.setattr(CompletionRequest, "model_validate_json", None)
    with pytest.raises(BodyTooComplex) as caught:
        await parse_body(request_of(body), CompletionRequest)
    assert (caught.value.status, caught.value.code) == (400, "request_too_complex")


def counts(value: Any) -> tuple[int, int, int]:
    """Commas, containers and entries of a value's JSON."""
    if not isinstance(value, dict | list):
        return 0, 0, 0
    entries = len(value) if isinstance(value, dict) else 0
    inner = [counts(item) for item in (value.values() if isinstance(value, dict) else value)]
    own = (max(len(value) - 1, 0), 1, entries)
    commas, containers, entries = (sum(column) for column in zip(own, *inner, strict=True))
    return commas, containers, entries


TEXTS = st.text(st.sampled_from('",[]{}\\a:\n\u00e9'), max_size=30)
VALUES = JSON_VALUES | st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))


@given(value=VALUES, piece=st.integers(2, 40), ascii_only=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_count_is_exact_wherever_pieces_end(value: Any, piece: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    commas, containers, entries = counts(value)
    bounds = {"MAX_VALUES": commas + 1, "MAX_CONTAINERS": containers, "MAX_ENTRIES": entries}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_size, "_PIECE_BYTES", piece)
        for name, bound in bounds.items():
            patch.setattr(body_size, name, bound)
        assert not holds_too_much(body)
        for name, bound in bounds.items():
            with patch.context() as lower:
                lower.setattr(body_size, name, bound - 1)
                assert holds_too_much(body)


@given(body=st.binary(max_size=60) | st.text(st.sampled_from('"\\[,{a'), max_size=60).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_what_is_no_json_is_looked_through_as_well(body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_size, "_PIECE_BYTES", 7)
        holds_too_much(body)
