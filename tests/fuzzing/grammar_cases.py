"""Random grammars of the kinds that are known to be hard, most of them small enough to be somebody's own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

from actors.request.grammar.kinds import GrammarKind
from serve_app.api.tools import Tool, ToolChoice, plan_tools
from serve_app.models.tool_format import FORMATS

Schema = dict[str, Any]


def random_grammar(random: Random) -> tuple[str, GrammarKind, str]:
    """What kind of case it is, and the grammar."""
    name = random.choice(sorted(_MAKERS))
    return name, *_MAKERS[name](random)


def _size(random: Random, largest: int) -> int:
    """Small ones as often as large ones."""
    return max(1, int(math.exp(random.random() * math.log(largest))))


def _pattern(random: Random) -> str:
    letter, other = random.choice("abc"), random.choice("xyz")
    count = _size(random, 1000)
    return random.choice(
        [
            f"{letter}{count}.*{other}",
            f"({letter}|{other})*{letter}({letter}|{other}){{{_size(random, 40)}}}",
            f"(({letter}+)+)+{other}",
            f"({letter}{{1,{count}}}){{1,{_size(random, 1000)}}}",
            f"(({letter}{{{count}}}){{{_size(random, 1000)}}}){{{_size(random, 1000)}}}",
            f".{{0,{_size(random, 100_000)}}}",
            r"(\w{1,%d}\W{1,%d}){1,%d}" % (count, count, _size(random, 300)),  # noqa: UP031 - braces all over
            f"^[{letter}-{other}]+$",
        ]
    )


def _leaf(random: Random) -> Schema:
    makers: list[Callable[[], Schema]] = [
        lambda: {"type": "string", "pattern": _pattern(random)},
        lambda: {"type": "string", "minLength": _size(random, 10**6), "maxLength": _size(random, 10**7)},
        lambda: {"type": "integer", "multipleOf": _size(random, 100_000)},
        lambda: {"type": "number", "minimum": random.uniform(-1e9, 1), "maximum": random.uniform(1, 1e9)},
        lambda: {"enum": [f"v{number}" for number in range(_size(random, 5000))]},
        lambda: {"type": "string", "format": random.choice(["email", "date-time", "uuid", "hostname"])},
        lambda: {"const": "x" * _size(random, 20_000)},
    ]
    return random.choice(makers)()


def _intersection(random: Random) -> tuple[GrammarKind, str]:
    parts = [_leaf(random) for _ in range(_size(random, 6))]
    number = _size(random, 40)
    parts += [{"type": "string", "pattern": f"a{place}.*b"} for place in range(number)]
    schema: Schema = {"allOf": parts[-40:]}
    return "json_schema", json.dumps(random.choice([schema, {"type": "object", "properties": {"p": schema}}]))


def _deep(random: Random) -> tuple[GrammarKind, str]:
    schema = _leaf(random)
    for _ in range(_size(random, 200)):
        schema = random.choice(
            [
                {"type": "object", "properties": {"a": schema}, "required": ["a"]},
                {"type": "array", "items": schema, "minItems": _size(random, 100)},
                {"anyOf": [schema, _leaf(random)] if random.random() < 0.1 else [schema, {"type": "null"}]},
            ]
        )
    return "json_schema", json.dumps(schema)


def _wide(random: Random) -> tuple[GrammarKind, str]:
    names = [f"p{number}" for number in range(_size(random, 4000))]
    leaves = [_leaf(random) for _ in range(3)]
    properties = {name: random.choice(leaves) for name in names}
    required = names if random.random() < 0.5 else []
    return "json_schema", json.dumps({"type": "object", "properties": properties, "required": required})


def _recursive(random: Random) -> tuple[GrammarKind, str]:
    names = [f"n{number}" for number in range(_size(random, 60))]

    def reference() -> Schema:
        return {"$ref": f"#/$defs/{random.choice(names)}"}

    def node() -> Schema:
        some = [reference() for _ in range(_size(random, 8))]
        return random.choice(
            [
                {"anyOf": [*some, _leaf(random)]},
                {"allOf": some},
                {"oneOf": some},
                {"type": "array", "items": reference()},
                {"type": "object", "additionalProperties": reference()},
                {"type": "object", "patternProperties": {_pattern(random): reference() for _ in some}},
            ]
        )

    return "json_schema", json.dumps({"$defs": {name: node() for name in names}, **reference()})


def _catastrophic(random: Random) -> tuple[GrammarKind, str]:
    patterns = [_pattern(random).strip("^$") for _ in range(_size(random, 30))]
    return "regex", random.choice(["|", ""]).join(f"({pattern})" for pattern in patterns)


def _lark_terminals(random: Random) -> tuple[GrammarKind, str]:
    """Intersections and complements, at once or behind a few characters, where compiling does not see them."""
    operands = [rf"/(.|\n)*a{place}(.|\n)*/" for place in range(_size(random, 32))]
    if random.random() < 0.3:
        operands += [f"~(/{_pattern(random).strip('^$')}/)" for _ in range(_size(random, 6))]
    hard = " & ".join(operands)
    ahead = _size(random, 30)
    return "lark", random.choice(
        [
            f"start: A\nA: {hard}",
            f"start: A\nA: /(y|n){{{ahead}}}/ (/z/ | /x/ B)\nB: {hard}",
            f"start: (A | /[a-z]/)*\nA: {hard}",
        ]
    )


def _lark_rules(random: Random) -> tuple[GrammarKind, str]:
    count = _size(random, 300)
    rules = [
        f"r{place}: "
        + " | ".join(
            " ".join(random.choice([f"r{random.randrange(count)}", '"a"', "/[a-z]+/", '"b"?']) for _ in range(3))
            for _ in range(_size(random, 12))
        )
        for place in range(count)
    ]
    return "lark", "\n".join([f"start: r0{{0,{_size(random, 1000)}}}", *rules])


def _tools(random: Random) -> tuple[GrammarKind, str]:
    makers: list[Callable[[Random], tuple[GrammarKind, str]]] = [_intersection, _wide, _recursive]
    tools = [
        Tool(
            name=f"t{place}",
            parameters={"type": "object", "properties": {"a": json.loads(random.choice(makers)(random)[1])}},
        )
        for place in range(_size(random, 5))
    ]
    plan = plan_tools(tools, ToolChoice("required"), tool_format=FORMATS[random.choice(sorted(FORMATS))])
    assert plan.constraint is not None
    return plan.constraint.kind, plan.constraint.source


_MAKERS: dict[str, Callable[[Random], tuple[GrammarKind, str]]] = {
    "intersection": _intersection,
    "deep": _deep,
    "wide": _wide,
    "recursive": _recursive,
    "catastrophic": _catastrophic,
    "lark terminals": _lark_terminals,
    "lark rules": _lark_rules,
    "tools": _tools,
}
