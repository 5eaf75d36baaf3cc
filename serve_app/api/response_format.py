"""What a request demands of the form of its text: `response_format` and the `guided_*` fields become one constraint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from actors.errors import InvalidRequest
from actors.request.grammar.checker import GrammarChecker
from actors.request.grammar.kinds import GrammarKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFormat:
    """OpenAI's `response_format`. `schema` goes with json_schema; `name` and `strict` are the caller's own notes."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    schema: Mapping[str, Any] | None = None
    name: str = ""
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar that the completion matches; `param` is the field of the request that asked for it, `subject` what a
    message calls the grammar, by default `param`."""

    kind: GrammarKind
    source: str
    param: str
    subject: str | None = None

    def sampling(self) -> dict[str, str]:
        """The field of `SamplingParams` that says it."""
        return {self.kind: self.source}

    async def check(self, grammars: GrammarChecker) -> None:
        """:raises InvalidRequest: it cannot be compiled.
        :raises Overloaded: too many others are being compiled.
        """
        await grammars.check(self.kind, self.source, param=self.param, subject=self.subject)


def text_constraint(
    response_format: ResponseFormat | None = None,
    *,
    guided_json: str | Mapping[str, Any] | None = None,
    guided_regex: str | None = None,
    guided_grammar: str | None = None,
) -> Constraint | None:
    """The one constraint that these fields ask for; None: any text. Whether it can be compiled is still to be checked.

    A JSON schema binds whether `strict` or not: there is no weaker promise worth keeping.

    :raises InvalidRequest: more than one of them, or one that is no JSON; `param` names the field.
    """
    found = [] if response_format is None else _of_format(response_format)
    if guided_json is not None:
        source = guided_json if isinstance(guided_json, str) else _dumped(guided_json, "guided_json")
        found.append(Constraint("json_schema", source, "guided_json"))
    if guided_regex is not None:
        found.append(Constraint("regex", guided_regex, "guided_regex"))
    if guided_grammar is not None:
        found.append(Constraint("lark", guided_grammar, "guided_grammar"))
    if len(found) > 1:
        names = " and ".join(one.param for one in found)
        raise InvalidRequest(f"{names} exclude each other: give one.", param=found[1].param)
    return found[0] if found else None


def _of_format(response_format: ResponseFormat) -> list[Constraint]:
    if response_format.type == "text":
        return []
    if response_format.type == "json_object":
        return [Constraint("json_schema", '{"type": "object"}', "response_format")]
    if response_format.schema is None:
        raise InvalidRequest("response_format of type json_schema needs a schema.", param="response_format")
    return [Constraint("json_schema", _dumped(response_format.schema, "response_format"), "response_format")]


def _dumped(schema: Mapping[str, Any], param: str) -> str:
    try:
        return json.dumps(dict(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{param} is not JSON: {error}.", param=param) from None
