"""What a parser makes of completions, whole, broken and cut in pieces."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.tools import TextPiece, ToolCallArguments, ToolCallParser, ToolCallStarted
from serve_app.models.tool_format import ToolFormat
from tests.serve_app.api.tools.reading import HERMES, LLAMA3, MISTRAL, NAMES, Reading, read

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
HIDDEN_HERMES = replace(HERMES, token_ids={"<tool_call>": 9, "</tool_call>": 10}, hidden_opening=True)
HIDDEN_MISTRAL = replace(MISTRAL, token_ids={"[TOOL_CALLS]": 5}, hidden_opening=True)
ONE = [("f", '{"a": 1}')]


@pytest.mark.parametrize(
    ("tool_format", "text", "content", "calls"),
    [
        (HERMES, CALL, "", ONE),
        (HERMES, f"\n{CALL}\n", "", ONE),
        (HERMES, f"Let me see.\n{CALL}", "Let me see.\n", ONE),
        (HERMES, f"{CALL}\n{CALL}", "", ONE * 2),
        (HERMES, f"{CALL}{CALL}", "", ONE * 2),
        (HERMES, f"a {CALL} b {CALL} c", "a  b  c", ONE * 2),
        (HERMES, f"{CALL}\nThat is it.", "\nThat is it.", ONE),
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "", ONE),
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", ONE),
        (HERMES, '<tool_call>{"id": 7, "type": "function", "name": "f", "arguments": {"a": 1}}', "", ONE),
        (HERMES, '<tool_call>{"name": "f", "parameters": {"a": 1}, "id": null}</tool_call>', "", ONE),
        (HERMES, '<tool_call>{"name": "f"}</tool_call>', "", [("f", "{}")]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}}</tool_call>', "", [("f", "{}")]),
        (HERMES, '<tool_call>{"name":"f","arguments":{"a":[{"b":"}]\\"{"}]}}', "", [("f", '{"a":[{"b":"}]\\"{"}]}')]),
        (HERMES, '<tool_call>{"name": "\\u0066", "arguments": {"a": 1}}</tool_call>', "", ONE),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call> x', " x", ONE),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}', "", [("f", '{"a": "</tool_call>"}')]),
        (
            HIDDEN_HERMES,
            '\n{"name": "f", "arguments": {"a": 1}}\n\n{"name": "f", "arguments": {"a": 1}}\n',
            "",
            ONE * 2,
        ),
        (LLAMA3, '{"name": "f", "parameters": {"a": 1}}', "", ONE),
        (LLAMA3, '{"type": "function", "name": "f", "parameters": {"a": 1}}', "", ONE),
        (LLAMA3, '{"name": "f", "parameters": {"a": 1}}; {"name": "f", "parameters": {"a": 1}}', "", ONE * 2),
        (LLAMA3, '{"name": "f", "parameters": {"a": 1}}\n{"name": "f", "parameters": {"a": 1}}', "", ONE * 2),
        (LLAMA3, '{"name": "f", "parameters": {"a": 1}}; and more', "; and more", ONE),
        (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', "", ONE),
        (MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "a1B2c3D4e"}]', "", ONE),
        (
            MISTRAL,
            '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}},{"name": "f", "arguments": {"a": 1}}]',
            "",
            ONE * 2,
        ),
        (MISTRAL, 'So: [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', "So: ", ONE),
        (HIDDEN_MISTRAL, ' [{"name": "f", "arguments": {"a": 1}}]', "", ONE),
        (HIDDEN_MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', "", ONE),
    ],
)
def test_calls_are_found(tool_format: ToolFormat, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    for pieces in (text, list(text)):
        reading = read(pieces, tool_format)
        assert (reading.text, reading.calls, reading.unfinished) == (content, calls, False)


@pytest.mark.parametrize(
    ("tool_format", "text"),
    [
        (HERMES, ""),
        (HERMES, "  "),
        (HERMES, "plain <b>text</b> {} []"),
        (HERMES, "<tool_cal"),
        (HERMES, "<tool_call"),
        (HERMES, "<tool_call>"),
        (HERMES, "<tool_call></tool_call>"),
        (HERMES, "Write <tool_call> to call."),
        (HERMES, '{"name": "f", "arguments": {"a": 1}}'),
        (HERMES, '<tool_call>{"name": "unknown", "arguments": {"a": 1}}</tool_call>'),
        (HERMES, '<tool_call>{name: "f", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": 5, "arguments": {"a": 1}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{}"'),
        (HERMES, '<tool_call>{"name": "f", "arguments": '),
        (HERMES, '<tool_call>{"name": "f"'),
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "na'),
        (HERMES, '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
        (HERMES, '<tool_call>{"arguments": {"a": 1<, "name": "f"}'),
        (HERMES, "<tool_call>{'name': 'f'}</tool_call>"),
        (HERMES, '<tool_call>{"name": "\\x", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "' + "f" * 5000 + '"}</tool_call>'),
        (HERMES, '<tool_call>{"name": ' + "1" * 5000 + "}</tool_call>"),
        (HERMES, '<tool_call>{"name": "f", "x": {"a": 1}, "arguments": {}}</tool_call>'),
        (LLAMA3, 'The call is {"name": "f", "parameters": {"a": 1}}'),
        (LLAMA3, '{"name": "Bob", "parameters": {"age": 5}}'),
        (LLAMA3, '{"age": 5}'),
        (LLAMA3, "{"),
        (MISTRAL, '[{"name": "f", "arguments": {"a": 1}}]'),
        (MISTRAL, "[TOOL_CALLS] none"),
        (MISTRAL, "[TOOL_CALLS]  "),
        (MISTRAL, "[TOOL_CALLS][]"),
        (HIDDEN_MISTRAL, "[TOOL"),
        (HIDDEN_MISTRAL, "[1, 2]"),
    ],
)
def test_what_is_no_call_is_text(tool_format: ToolFormat, text: str) -> None:
    for pieces in (text, list(text)):
        assert read(pieces, tool_format) == Reading(text=text, order=["TextPiece"] if text else [])


def test_a_marker_in_text_does_not_hide_a_call_behind_it() -> None:
    reading = read(f"The mark is <tool_call>, as in <tool_call>{CALL}")
    assert (reading.text, reading.calls) == ("The mark is <tool_call>, as in <tool_call>", ONE)


@pytest.mark.parametrize(
    ("text", "content", "arguments", "unfinished"),
    [
        ('<tool_call>{"name": "f", "arguments": {', "", "{", True),
        ('<tool_call>{"name": "f", "arguments": {"a": "x', "", '{"a": "x', True),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}', "", '{"a": 1}', False),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', "", '{"a": 1}', False),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_', "", '{"a": 1}', False),
        ('<tool_call>{"name": "f", "arguments": {"a": {"b": 1}</tool_call> x', " x", '{"a": {"b": 1}', True),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}, "b": [2]}', ', "b": [2]}', '{"a": 1}', False),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}} and so on', " and so on", '{"a": 1}', False),
    ],
)
def test_a_call_that_has_begun_stays_one(text: str, content: str, arguments: str, unfinished: bool) -> None:
    for pieces in (text, list(text)):
        reading = read(pieces)
        assert (reading.text, reading.calls) == (content, [("f", arguments)])
        assert reading.unfinished == unfinished


def test_a_broken_call_is_remembered_behind_a_good_one() -> None:
    assert read('<tool_call>{"name": "f", "arguments": {"a": </tool_call>' + CALL).unfinished


def test_arguments_stream_as_they_arrive_and_marks_never_show() -> None:
    parser = ToolCallParser(HERMES, NAMES, new_id=lambda: "call_1")
    steps: list[tuple[str, list[Any]]] = [
        ("I look", [TextPiece("I look")]),
        (" it up. <to", [TextPiece(" it up. ")]),
        ('ol_call>\n{"name": "get_wea', []),
        ('ther", "arguments": ', []),
        ("{", [ToolCallStarted(0, "call_1", "get_weather"), ToolCallArguments(0, "{")]),
        ('"city": "Par', [ToolCallArguments(0, '"city": "Par')]),
        ('is"}', [ToolCallArguments(0, 'is"}')]),
        ("}\n</tool_", []),
        ("call>", []),
    ]
    for text, events in steps:
        assert parser.push(text) == events
    assert parser.finish() == []


def test_text_that_may_begin_a_mark_is_held_no_longer_than_needed() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.push("a <tool") == [TextPiece("a ")]
    assert parser.push("s>") == [TextPiece("<tools>")]


def test_without_parallel_the_first_call_is_kept() -> None:
    other = CALL.replace('"a": 1', '"b": 2')
    for text in (f"{CALL}\n{other}", f"{CALL}{other}{other}"):
        for pieces in (text, list(text)):
            assert read(pieces, parallel=False) == Reading(
                "", ONE, ["call_1"], ["ToolCallStarted", "ToolCallArguments"]
            )
    text = '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {"b": 2}}]'
    assert read(text, MISTRAL, parallel=False).calls == ONE


def test_without_format_or_tools_all_is_text() -> None:
    for reading in (read(CALL, None), read(CALL, names=())):
        assert (reading.text, reading.calls) == (CALL, [])


def test_ids_are_unique_and_of_the_form_that_the_family_accepts() -> None:
    def ids(tool_format: ToolFormat, text: str) -> list[str]:
        parser = ToolCallParser(tool_format, NAMES)
        return [event.call_id for event in parser.push(text) if isinstance(event, ToolCallStarted)]

    hermes = ids(HERMES, CALL * 50)
    assert len(set(hermes)) == 50
    assert all(re.fullmatch("call_[0-9a-f]{24}", call_id) for call_id in hermes)
    (mistral,) = ids(MISTRAL, '[TOOL_CALLS][{"name": "f", "arguments": {}}]')
    assert re.fullmatch("[0-9a-zA-Z]{9}", mistral)


@pytest.mark.parametrize(("head", "tail"), [('{"name": "f", "arguments": ', "}"), ('{"arguments": ', ', "name": "f"}')])
def test_long_arguments_cost_linear_time(head: str, tail: str) -> None:
    """Four times the text, pushed character by character, takes about four times as long; copying what is there with
    every push takes fifty times as long."""

    def cost_s(length: int) -> float:
        arguments = json.dumps({"a": "x" * length})
        begin_s = time.thread_time()
        assert read(iter(f"<tool_call>{head}{arguments}{tail}</tool_call>")).calls == [("f", arguments)]
        return time.thread_time() - begin_s

    assert cost_s(400_000) < 15 * cost_s(100_000)


# What follows is random.

_SOUP = st.lists(
    st.sampled_from(
        [
            *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<tool_", "call>", "[", "]", "{", "}", ",", ";", ":", " "),
            *("\n", '"name"', '"f"', '"name": "f"', '"arguments"', '"arguments": ', '"parameters": {', '"a": 1', '"'),
            *("\\", "text", "<", "0", "null", CALL, '{"name": "f", "arguments": {"x": [1, "}"]}}', "é😀"),
        ]
    ),
    max_size=14,
).map("".join)
_FORMATS = st.sampled_from([HERMES, LLAMA3, MISTRAL, HIDDEN_HERMES, HIDDEN_MISTRAL])


@given(text=_SOUP, tool_format=_FORMATS, parallel=st.booleans(), data=st.data())
def test_how_the_text_is_cut_changes_nothing(text: str, tool_format: ToolFormat, parallel: bool, data: Any) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(text, tool_format, parallel=parallel)
    assert read(pieces, tool_format, parallel=parallel) == whole
    assert read(list(text), tool_format, parallel=parallel) == whole
    if not whole.calls:
        assert whole.text == text
    assert all(arguments.startswith("{") for _, arguments in whole.calls)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_ARGUMENTS = st.dictionaries(st.text(max_size=5), _JSON, max_size=3)
_CONTENT = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=10).filter(
    lambda text: not text or bool(text.strip(" \t\r\n"))
)


@given(
    parts=st.lists(st.tuples(_CONTENT, st.sampled_from(NAMES), _ARGUMENTS), max_size=4),
    tail=_CONTENT,
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
    size=st.integers(1, 9),
)
def test_what_was_written_is_read(
    parts: list[tuple[str, str, dict[str, Any]]], tail: str, ascii_only: bool, indent: int | None, size: int
) -> None:
    text, expected = "", []
    for content, name, arguments in parts:
        written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=ascii_only, indent=indent)
        text += f"{content}<tool_call>\n{written}\n</tool_call>"
        expected.append((name, arguments))
    text += tail
    reading = read([text[place : place + size] for place in range(0, len(text), size)])
    assert [(name, json.loads(arguments)) for name, arguments in reading.calls] == expected
    assert reading.text == "".join(content for content, _, _ in parts) + tail
    assert not reading.unfinished
