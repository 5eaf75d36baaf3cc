"""The lines of a file of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from actors import ConfigurationError, Prompt
from actors.wording import shown
from cluster.cli.sources import bad_byte

_PROMPT_KEYS = ("prompt", "messages", "token_ids")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the prompts file: its prompt, what to show of it, and the `id` it may carry."""

    prompt: Prompt
    shown: str
    identifier: str | None


def read_rows(file: TextIO, name: str, *, jsonl: bool | None, chat: bool) -> Iterator[Row]:
    """The prompts of a file, from its beginning: lines of text, or (`jsonl`) objects with one of prompt, messages and
    token_ids, and optionally id. Without `jsonl` the name decides. Empty lines are skipped.

    :raises ConfigurationError: the file cannot be read, or a line is wrong; it names the line.
    """
    unsure = jsonl is None and not name.endswith(".jsonl")
    is_json = jsonl if jsonl is not None else not unsure
    try:
        file.seek(0)
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{name}:{number}"
            told = bad_byte(line)
            if told is not None:
                raise ConfigurationError(f"{where}: {told}.")
            if unsure and _looks_like_json(line):
                raise ConfigurationError(f"{where} looks like JSON Lines: say --jsonl, or --text if it is none.")
            unsure = False
            yield _from_json(line, where, chat) if is_json else _from_text(line.rstrip("\n"), chat)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {name}: {error.strerror}.") from None


def _looks_like_json(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and any(key in value for key in _PROMPT_KEYS)


def _from_text(text: str, chat: bool, identifier: str | None = None) -> Row:
    return Row([{"role": "user", "content": text}] if chat else text, text, identifier)


def _from_json(line: str, where: str, chat: bool) -> Row:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{where}: not JSON: {error.msg}.") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists in lists in lists
        raise ConfigurationError(f"{where}: not JSON that can be read.") from None
    if not isinstance(value, dict) or sum(key in value for key in _PROMPT_KEYS) != 1:
        raise ConfigurationError(f"{where}: an object with exactly one of {', '.join(_PROMPT_KEYS)} is wanted.")
    unknown = sorted(set(value) - {*_PROMPT_KEYS, "id"})
    if unknown:
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}.")
    key = next(key for key in _PROMPT_KEYS if key in value)
    wanted = _wanted(key, value[key])
    if wanted is not None:
        raise ConfigurationError(f"{where}: {key} must be {wanted}, not {shown(value[key])}.")
    identifier = None if value.get("id") is None else str(value["id"])
    if isinstance(value[key], str):
        return _from_text(value[key], chat, identifier)
    return Row(value[key], json.dumps(value[key], ensure_ascii=False), identifier)


def _wanted(key: str, prompt: Any) -> str | None:
    """What should stand there, if it is something else altogether. What a list holds is looked at later, and a fault
    there is that of one prompt."""
    match key:
        case "prompt":
            return None if isinstance(prompt, str | list) else "a text"
        case "messages":
            good = isinstance(prompt, list) and all(isinstance(message, Mapping) for message in prompt)
            return None if good else "a list of messages, each with role and content"
        case _:
            good = isinstance(prompt, list) and not any(isinstance(item, Mapping | str) for item in prompt)
            return None if good else "a list of token ids"
