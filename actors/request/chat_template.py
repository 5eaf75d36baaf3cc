"""A model's own chat template: messages become text, in a sandbox, exactly as transformers renders it.

Source of the conventions (block trimming, `tojson`, `raise_exception`, `strftime_now`, the `generation` tag):
transformers/utils/chat_template_utils.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from actors.errors import InvalidRequest, ModelError, first_line

Messages = Sequence[Mapping[str, Any]]

_GIVEN = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message"})
_FUNCTIONS = frozenset(DEFAULT_NAMESPACE) | {"raise_exception", "strftime_now"}
_WORDS = frozenset({"self", "super", "loop", "caller", "varargs", "kwargs"})
_CONSTANTS = frozenset({"true", "false", "none", "True", "False", "None"})
RESERVED_VARIABLES = _GIVEN | _FUNCTIONS | _WORDS | _CONSTANTS
"""Names that a variable for a template cannot have: what the template is given already, the functions that it calls,
and words that mean something in the language of templates, where the variable would be lost without a word."""

_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What a template raises over messages and variables that it was not made for: it calculates with them, looks into
them and calls their methods."""
_END_OF_CONTENT = "\ue000end\ue001"
"""Marks where the final message ends, to cut there; private-use characters that no tokenizer treats apart."""


def require_free_names(variables: Mapping[str, Any], param: str = "template_variables") -> None:
    """:raises InvalidRequest: a variable has one of the `RESERVED_VARIABLES`' names; `param` is what the caller called
    the variables."""
    taken = sorted(RESERVED_VARIABLES & set(variables))
    if taken:
        raise InvalidRequest(f"{param} cannot set {taken[0]}: the name has a meaning of its own.", param=param)


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks assistant text for training; rendering ignores the marks."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own convention

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(format_: str) -> str:
    return datetime.now().strftime(format_)


class ChatTemplate:
    """A compiled template; `variables` are what it may use beside the messages (bos_token and the like)."""

    def __init__(self, source: str, variables: Mapping[str, str]) -> None:
        self.source = source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelError(f"The model's chat template is broken: {first_line(error).rstrip('.')}.") from None
        self._variables = dict(variables)

    def __repr__(self) -> str:
        return f"<ChatTemplate of {len(self.source)} characters with {', '.join(self._variables) or 'no variables'}>"

    @classmethod
    def load(cls, model_dir: Path, variables: Mapping[str, str]) -> ChatTemplate | None:
        """The template of a model directory: `chat_template.jinja`, else tokenizer_config.json; None if it has none.

        :raises ModelError: a file is damaged, or the template is no template.
        """
        file = model_dir / "chat_template.jinja"
        if file.is_file():
            return cls(_read_text(file), variables)
        source = read_tokenizer_config(model_dir).get("chat_template")
        if isinstance(source, list):  # named templates, as some models have them
            named = {entry["name"]: entry["template"] for entry in source}
            source = named.get("default")
        return cls(source, variables) if isinstance(source, str) else None

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation. With `continue_final_message` it ends inside the last message.

        :raises InvalidRequest: the template refuses the messages, or a variable has a name that is taken.
        """
        variables = variables or {}
        require_free_names(variables)
        if continue_final_message:
            add_generation_prompt = False
            messages = [*messages[:-1], _marked(messages[-1])]
        try:
            text = self._template.render(
                {
                    **self._variables,
                    **variables,
                    "messages": messages,
                    "tools": tools,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except _REFUSALS as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {first_line(error).rstrip('.')}.", param="messages"
            ) from None
        return text.partition(_END_OF_CONTENT)[0] if continue_final_message else text


def read_tokenizer_config(model_dir: Path) -> dict[str, Any]:
    """The directory's tokenizer_config.json, empty where there is none.

    :raises ModelError: it is damaged.
    """
    file = model_dir / "tokenizer_config.json"
    if not file.is_file():
        return {}
    try:
        config = json.loads(_read_text(file))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{file} does not hold a JSON object: fetch it again.")
    return config


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"Cannot read {file}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ModelError(f"{file} is not text: fetch it again.") from None


def _marked(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, str):
        raise InvalidRequest("continue_final_message needs a last message with text.", param="continue_final_message")
    return {**message, "content": content + _END_OF_CONTENT}
