"""The front refuses exactly the grammars that an engine would refuse, and remembers its answers within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from llguidance import LLMatcher

from actors.builtin_model import builtin_model_path
from actors.engines.grammar import GrammarCompiler
from actors.errors import InvalidRequest
from actors.request import grammar
from actors.request.grammar import GrammarKind, check_grammar

CASES: list[tuple[GrammarKind, str]] = [
    ("regex", "(yes|no)"),
    ("regex", ""),
    ("regex", "(ab"),
    ("regex", "(?=a)b"),
    ("regex", "\ud800"),
    ("regex", "a" * (grammar.MAX_GRAMMAR_CHARACTERS + 1)),
    ("lark", 'start: "a" "b"* "!"'),
    ("lark", ""),
    ("lark", "start: nowhere"),
    ("lark", 'start: "a'),
    ("lark", 'start: "\ud800"'),
    ("lark", 'start: %json {"type": "objct"}'),
    ("lark", "start: <[5]>"),
    ("json_schema", "{}"),
    ("json_schema", '{"type": "object"}'),
    ("json_schema", '{"$ref": "#/$defs/N", "$defs": {"N": {"properties": {"n": {"$ref": "#/$defs/N"}}}}}'),
    ("json_schema", '{"title": "T", "description": "d", "default": 1, "examples": [1], "type": "integer"}'),
    ("json_schema", "{"),
    ("json_schema", "[]"),
    ("json_schema", "true"),
    ("json_schema", '{"type": "objct"}'),
    ("json_schema", '{"type": "array", "uniqueItems": true}'),
    ("json_schema", '{"$ref": "#/nowhere"}'),
    ("json_schema", '{"enum": []}'),
    ("json_schema", '{"not": {}}'),
    ("json_schema", '{"type": "number", "minimum": NaN}'),
    ("json_schema", '{"type": "string", "maxLength": 1e400}'),
    ("json_schema", '{"type": "string", "minLength": 5, "maxLength": 2}'),
    ("json_schema", '{"const": "\\ud800"}'),
    ("json_schema", '{"items": ' * 5000 + "{}" + "}" * 5000),
    ("json_schema", '{"oneOf": [{"type": "string"}, {"type": "integer"}]}'),
    ("json_schema", '{"oneOf": [{"minLength": 1}, {"maxLength": 5}]}'),
]


@pytest.fixture(autouse=True)
def fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "_faults", type(grammar._faults)())


def refuses(kind: GrammarKind, source: str) -> bool:
    try:
        check_grammar(kind, source, param="p")
    except InvalidRequest:
        return True
    return False


def told(check: Callable[[], None]) -> str | None:
    try:
        check()
    except InvalidRequest as error:
        return error.message
    return None


@pytest.mark.parametrize(("kind", "source"), CASES, ids=range(len(CASES)))
def test_an_api_refuses_what_an_engine_refuses_in_the_same_words(kind: GrammarKind, source: str) -> None:
    compiler = GrammarCompiler((builtin_model_path() / "tokenizer.json").read_text(encoding="utf-8"))
    assert told(lambda: compiler.check(kind, source)) == told(lambda: check_grammar(kind, source, param=kind))


def test_the_message_is_one_sentence_with_the_reason() -> None:
    with pytest.raises(InvalidRequest, match=r"^It cannot be used: unclosed group\.$") as caught:
        check_grammar("regex", "(ab", param="guided_regex", subject="It")
    assert caught.value.param == "guided_regex"
    with pytest.raises(InvalidRequest) as caught:
        check_grammar("lark", "start: " + "x" * 2000, param="p")
    assert len(caught.value.message) < 500
    assert "\n" not in caught.value.message


def test_answers_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def note(source: str) -> str:
        compiled.append(source)
        return str(LLMatcher.grammar_from_regex(source))

    monkeypatch.setitem(grammar._GRAMMARS, "regex", note)
    monkeypatch.setattr(grammar, "MAX_CACHED", 2)
    for source in ("a", "(", "a", "(", "b", "a"):
        assert refuses("regex", source) == (source == "(")
    assert compiled == ["a", "(", "b", "a"]
    assert len(grammar._faults) == 2
    assert all(len(key) == 32 for key in grammar._faults)


def test_one_source_may_be_good_as_one_kind_only() -> None:
    source = json.dumps({"type": "object"})
    assert not refuses("json_schema", source)
    assert refuses("lark", source) == refuses("lark", source)
    assert not refuses("regex", "start: x")
    assert refuses("lark", "start: x")
