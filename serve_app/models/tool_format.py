"""How models write tool calls, and which way a model's chat template taught it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tokenizers import Tokenizer

from actors.errors import ConfigurationError

ArgumentsKey = Literal["arguments", "parameters"]
FormatName = Literal["hermes", "llama3_json", "mistral"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """Calls are JSON objects `{"name": …, <arguments_key>: {…}}`, between marks.

    With `listed`, one `opening` stands before a JSON list of calls; otherwise each call has its own `opening` and
    `closing`, and `separator` may stand between two. A mark that is one token of the vocabulary has its id in
    `token_ids`: a grammar must name the token, since to it such a token is no text. A special token has no text in a
    completion either (`hidden_opening`): then, and in formats without an opening, a call may begin where the
    completion begins or the last call ended.
    """

    name: FormatName
    opening: str = ""
    closing: str = ""
    separator: str = ""
    arguments_key: ArgumentsKey = "arguments"
    listed: bool = False
    parallel: bool = True
    """Whether the model was taught to make several calls in one message."""
    short_ids: bool = False
    """The template accepts only call ids of 9 letters and digits."""
    token_ids: Mapping[str, int] = field(default_factory=dict)
    hidden_opening: bool = False

    @property
    def may_begin_bare(self) -> bool:
        """Whether a call may begin without a visible opening."""
        return self.hidden_opening or not self.opening


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token outside a tokenizer's ordinary vocabulary. A special one has no text in a completion."""

    token_id: int
    special: bool


FORMATS: Mapping[str, ToolFormat] = {
    "hermes": ToolFormat(name="hermes", opening="<tool_call>", closing="</tool_call>"),
    "llama3_json": ToolFormat(name="llama3_json", separator=";", arguments_key="parameters", parallel=False),
    "mistral": ToolFormat(name="mistral", opening="[TOOL_CALLS]", separator=",", listed=True, short_ids=True),
}
"""The formats by the names that a configuration uses."""

# Families that share a mark with one of the formats and write something else behind it.
_OTHERS = re.compile(r"<function=|<arg_key>|\[ARGS\]|\[CALL_ID\]")
_LLAMA3 = re.compile(r"""["']parameters["']\s*:""")


def detect_format(
    template: str | None, tokens: Mapping[str, AddedToken], *, configured: str | None = None
) -> ToolFormat | None:
    """The format that a chat template writes, or the one that a configuration names; None: no known one.

    :raises ConfigurationError: `configured` is no format's name.
    """
    if configured is not None:
        if configured not in FORMATS:
            raise ConfigurationError(f"There is no tool format {configured!r}: use one of {', '.join(FORMATS)}.")
        return _with_tokens(FORMATS[configured], tokens)
    name = None if template is None else _named_by(template)
    return None if name is None else _with_tokens(FORMATS[name], tokens)


def _named_by(template: str) -> FormatName | None:
    if _OTHERS.search(template):
        return None
    if "<tool_call>" in template:
        return "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    return "llama3_json" if "<|start_header_id|>" in template and _LLAMA3.search(template) else None


def _with_tokens(tool_format: ToolFormat, tokens: Mapping[str, AddedToken]) -> ToolFormat:
    marks = {mark: tokens[mark] for mark in (tool_format.opening, tool_format.closing) if mark in tokens}
    opening = marks.get(tool_format.opening)
    return replace(
        tool_format,
        token_ids={mark: token.token_id for mark, token in marks.items()},
        hidden_opening=opening is not None and opening.special,
    )


def added_tokens(tokenizer: Tokenizer) -> dict[str, AddedToken]:
    """The added tokens of a tokenizer, by their text."""
    decoder = tokenizer.get_added_tokens_decoder()
    return {token.content: AddedToken(token_id, token.special) for token_id, token in decoder.items()}
