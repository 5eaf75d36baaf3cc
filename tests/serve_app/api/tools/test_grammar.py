"""Whatever tokens are chosen under the grammars, as an engine's mask allows them, the calls parse and validate."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from actors.builtin_model import builtin_model_path
from actors.engines.grammar import GrammarMask, Grammars, token_mask, words_needed
from actors.errors import InvalidRequest
from serve_app.api.response_format import Constraint
from serve_app.api.tools import Tool, ToolChoice, ToolPlan, plan_tools, usable_plan
from serve_app.api.tools.grammar import RefusedSchemas, schema_of
from serve_app.models.tool_format import FORMATS, ToolFormat, added_tokens, detect_format
from tests.checking import shared_checker
from tests.properties import examples
from tests.serve_app.api.tools.offered import ADD, NOW, TAG, TOOLS, WEATHER, check_call
from tests.serve_app.api.tools.reading import Reading, joined

EOS = 2
TOKENIZER_JSON = (builtin_model_path() / "tokenizer.json").read_text(encoding="utf-8")
DOCUMENT = Constraint(
    "json_schema",
    '{"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": false}',
    "response_format",
)


class Vocabulary:
    """The built-in tokenizer, with marks as tokens of their own if `marks` are given."""

    def __init__(self, marks: tuple[str, ...] = (), special: bool = False) -> None:
        spec = json.loads(TOKENIZER_JSON)
        added = spec["added_tokens"]
        added += [{**added[-1], "id": 2048 + i, "content": mark, "special": special} for i, mark in enumerate(marks)]
        self.size = 2048 + len(marks)
        self.tokenizer = Tokenizer.from_str(json.dumps(spec))
        self.compiler = Grammars(json.dumps(spec), vocab_size=self.size, eos_token_ids=[EOS])

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def shown(self, token_ids: list[int]) -> str:
        """The text of a completion as engines make it: special tokens have none."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    def allowed(self, mask: GrammarMask) -> list[int]:
        words = np.zeros(words_needed(self.size), np.int32)
        mask.allowed(words)
        return np.flatnonzero(token_mask(words, self.size)).tolist()

    def next_characters(self, mask: GrammarMask) -> set[str]:
        """Those with which the allowed tokens begin."""
        return {self.shown([token_id])[:1] for token_id in self.allowed(mask)}

    def random_ids(self, lark: str, random: Random, limit: int) -> tuple[list[int], bool]:
        """A completion of tokens chosen blindly among those allowed, and whether it came to its end."""
        mask = self.compiler.mask("lark", lark)
        ids: list[int] = []
        while not mask.complete and len(ids) < limit:
            token_id = random.choice(self.allowed(mask))
            if token_id == EOS:
                return ids, True
            mask.accept(token_id)
            ids.append(token_id)
        return ids, mask.complete


@cache
def vocabulary(marks: tuple[str, ...] = (), special: bool = False) -> Vocabulary:
    return Vocabulary(marks, special)


HERMES_MARKS = ("<tool_call>", "</tool_call>")
CASES = [
    ("hermes", (), False),
    ("hermes", HERMES_MARKS, False),
    ("hermes", HERMES_MARKS, True),
    ("llama3_json", (), False),
    ("mistral", (), False),
    ("mistral", ("[TOOL_CALLS]",), True),
]
EVERY_FORMAT = pytest.mark.parametrize(("name", "marks", "special"), CASES)


def bound(name: str, words: Vocabulary) -> ToolFormat:
    tool_format = detect_format(None, added_tokens(words.tokenizer), configured=name)
    assert tool_format is not None
    return tool_format


def usable(tools: list[Tool], choice: ToolChoice, name: str = "hermes", *, parallel: bool = True) -> ToolPlan:
    """As the API plans: with a grammar that was compiled."""

    async def planned() -> ToolPlan:
        async def make(refused: RefusedSchemas) -> ToolPlan:
            return plan_tools(tools, choice, parallel=parallel, tool_format=FORMATS[name], refused=refused)

        return await usable_plan(make, shared_checker())

    return asyncio.run(planned())


def read(plan: ToolPlan, text: str) -> Reading:
    parser = plan.parser()
    reading = joined([*parser.push(text), *parser.finish()])
    reading.unfinished = parser.unfinished
    return reading


@EVERY_FORMAT
@examples(12)
@given(seed=st.integers(0, 2**32), mode=st.sampled_from(["required", "named"]), parallel=st.booleans())
def test_demanded_calls_always_parse(
    name: str, marks: tuple[str, ...], special: bool, seed: int, mode: str, parallel: bool
) -> None:
    words, random = vocabulary(marks, special), Random(seed)
    choice = ToolChoice("required") if mode == "required" else ToolChoice("named", random.choice(TOOLS).name)
    plan = plan_tools(TOOLS, choice, parallel=parallel, tool_format=bound(name, words))
    ids, ended = words.random_ids(plan.sampling()["lark"], random, 400)
    reading = read(plan, words.shown(ids))
    assert reading.text == ""
    complete = reading.calls if ended else reading.calls[:-1]
    for called, arguments in complete:
        check_call(TOOLS, called, arguments)
    if ended:
        assert reading.calls
        assert not reading.unfinished
    if mode == "named" or not parallel or not plan.tool_format or not plan.tool_format.parallel:
        assert ended
        assert len(reading.calls) == 1
    if mode == "named":
        assert reading.calls[0][0] == choice.name


@EVERY_FORMAT
def test_several_calls_are_possible_if_the_family_makes_them(name: str, marks: tuple[str, ...], special: bool) -> None:
    words = vocabulary(marks, special)
    plan = plan_tools([NOW], ToolChoice("required"), tool_format=bound(name, words))
    counts = {
        len(read(plan, words.shown(words.random_ids(plan.sampling()["lark"], Random(seed), 200)[0])).calls)
        for seed in range(20)
    }
    assert counts == {1} if name == "llama3_json" else max(counts) > 1


@EVERY_FORMAT
def test_a_strict_tool_binds_calls_that_the_model_makes_on_its_own(
    name: str, marks: tuple[str, ...], special: bool
) -> None:
    words = vocabulary(marks, special)
    tool_format = bound(name, words)
    plan = plan_tools([TAG, WEATHER], ToolChoice("auto"), tool_format=tool_format)
    key = tool_format.arguments_key
    text = "" if name == "llama3_json" else "Well < now.\n"
    text += tool_format.opening + ("[" if tool_format.listed else "")
    mask = words.compiler.mask("lark", plan.sampling()["lark"])
    for token_id in words.ids(text + '{"name": "tag'):
        assert token_id in words.allowed(mask), words.tokenizer.id_to_token(token_id)
        mask.accept(token_id)
    assert words.next_characters(mask) == {"-"}
    for token_id in words.ids(f'-it.v2", "{key}": {{"tags": []'):
        mask.accept(token_id)
    assert words.next_characters(mask) == {","}


@EVERY_FORMAT
def test_under_a_strict_tool_text_stays_free(name: str, marks: tuple[str, ...], special: bool) -> None:
    words = vocabulary(marks, special)
    plan = plan_tools([TAG], None, tool_format=bound(name, words))
    mask = words.compiler.mask("lark", plan.sampling()["lark"])
    assert EOS in words.allowed(mask)
    for token_id in words.ids("It is 5 < 6, [as] {you} know: <tool_cal and\n\n```json\n[1]\n```"):
        assert token_id in words.allowed(mask)
        mask.accept(token_id)
    assert EOS in words.allowed(mask)


@examples(20)
@given(seed=st.integers(0, 2**32), marked=st.booleans())
def test_a_document_or_calls(seed: int, marked: bool) -> None:
    words = vocabulary(HERMES_MARKS if marked else ())
    strict = [Tool(name=tool.name, parameters=tool.parameters, strict=True) for tool in (ADD, NOW)]
    plan = plan_tools(strict, None, parallel=False, tool_format=bound("hermes", words), constraint=DOCUMENT)
    ids, ended = words.random_ids(plan.sampling()["lark"], Random(seed), 300)
    assert ended
    reading = read(plan, words.shown(ids))
    if reading.calls:
        assert reading.text == ""
        for called, arguments in reading.calls:
            check_call(strict, called, arguments)
    else:
        assert json.loads(reading.text)["x"] in (1, 2)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("parallel", [True, False])
def test_every_grammar_passes_the_check_of_the_front(name: str, parallel: bool) -> None:
    strict = [Tool(name=tool.name, parameters=tool.parameters, strict=True) for tool in TOOLS]
    for choice in (ToolChoice("auto"), ToolChoice("required"), ToolChoice("named", "add")):
        assert usable(strict, choice, name, parallel=parallel).sampling().keys() == {"lark"}


def test_parameters_that_list_properties_have_no_others_unless_they_say_so() -> None:
    def of(**parameters: object) -> object:
        return schema_of(Tool(name="f", parameters=parameters)).schema.get("additionalProperties")

    listed = {"a": {"type": "string"}}
    assert of(properties=listed) is False
    assert of(properties=listed, additionalProperties=True) is True
    assert of(properties=listed, patternProperties={"^b": {"type": "string"}}) is None
    assert of(properties=listed, allOf=[{"required": ["a"]}]) is None
    assert of(properties=listed, required=["a"], minProperties=2) is None
    assert of(properties=listed, required=["b"]) is None
    assert of(properties=listed, required=["a"]) is False
    assert of() is None
    assert schema_of(NOW).schema == {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"type": "array"}, "describe no object: their type is 'array'"),
        ({"type": ["object", "null"]}, "describe no object"),
        ({"properties": {"a": {"type": "objct"}}}, "cannot be used: .*objct"),
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, "nowhere"),
        ({"properties": {"a": {"const": "\ud800"}}}, "cannot be used"),
        ({"properties": 5}, "cannot be used"),
        ({"properties": {"a": {1, 2}}}, "are not JSON"),
    ],
)
def test_parameters_that_cannot_be_enforced_are_refused_by_the_tools_name(
    parameters: dict[str, object], reason: str
) -> None:
    bad = Tool(name="bad", parameters=parameters)
    with pytest.raises(InvalidRequest, match=f"^The parameters of tool 'bad' .*{reason}") as caught:
        usable([NOW, bad], ToolChoice("required"))
    assert caught.value.param == "tools"
    strict = Tool(name="bad", parameters=parameters, strict=True)
    with pytest.raises(InvalidRequest, match=r"^The parameters of tool 'bad'"):
        usable([NOW, strict], ToolChoice("auto"))


def test_parameters_that_cannot_be_enforced_do_no_harm_where_they_need_not() -> None:
    loose = Tool(name="loose", parameters={"type": "object", "properties": {"a": {"uniqueItems": True}}})
    assert plan_tools([loose], ToolChoice("auto"), tool_format=FORMATS["hermes"]).sampling() == {}
    plan = usable([loose, TAG], ToolChoice("auto"))
    assert "uniqueItems" not in plan.sampling()["lark"]
