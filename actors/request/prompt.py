"""A prompt becomes token ids: text, ids as they are, or chat messages through the model's own template.

Used by fronts. Imports neither torch nor transformers, so that a front starts fast.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from actors.errors import InvalidRequest, ModelError
from actors.request.chat_template import ChatTemplate, read_tokenizer_config
from actors.request.shield import Shield, special_names

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]

_ROLE = re.compile(r"[A-Za-z_]{1,32}")
_MAX_PROMPT_CHARACTERS = 16 * 1024 * 1024
_LONG_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """How chat messages are rendered. `variables` reach the template under their own names."""

    tools: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] | None = None


class PromptEncoder:
    """The tokenizer and the chat template of one model directory. Encoding is safe from several threads."""

    def __init__(self, tokenizer: Tokenizer, plain: Tokenizer, template: ChatTemplate | None) -> None:
        """`plain` is a second copy of the tokenizer, which encodes special tokens' names as ordinary text."""
        self._tokenizer = tokenizer
        self._plain = plain
        self._plain.encode_special_tokens = True
        self._template = template
        self._special = special_names(tokenizer)

    @classmethod
    def load(cls, model_dir: str | Path) -> PromptEncoder:
        """:raises ModelError: the directory has no usable tokenizer.json."""
        directory = Path(model_dir)
        try:
            text = (directory / "tokenizer.json").read_text(encoding="utf-8")
            tokenizer, plain = Tokenizer.from_str(text), Tokenizer.from_str(text)
        except OSError as error:
            raise ModelError(f"Cannot read {directory / 'tokenizer.json'}: {error.strerror}.") from None
        except Exception as error:  # noqa: BLE001 - tokenizers raises nothing more specific
            raise ModelError(f"{directory / 'tokenizer.json'} is not a tokenizer: {error}.") from None
        return cls(tokenizer, plain, ChatTemplate.load(directory, _special_tokens(directory)))

    def __repr__(self) -> str:
        template = "no chat template" if self._template is None else repr(self._template)
        return f"<PromptEncoder of {self._tokenizer.get_vocab_size()} tokens, {template}>"

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def template_source(self) -> str | None:
        """The chat template as it was written; None: the model has none."""
        return None if self._template is None else self._template.source

    def encode(
        self,
        prompt: Prompt,
        template: TemplateOptions | None = None,
        *,
        parse_special: bool = True,
        add_special: bool = True,
    ) -> tuple[int, ...]:
        """Token ids of a prompt.

        Text gets the tokenizer's own BOS unless `add_special` is false; names of special tokens in it count as such
        unless `parse_special` is false. In chat messages they never do: text of a user does not become a control
        token, and the template writes what stands before and after it.

        :raises InvalidRequest: an empty prompt, a wrong type, a model without a chat template.
        """
        # A text; else a sequence, of messages if the first item is one, and otherwise of token ids. Bytes are sequences
        # of integers too, but nobody means that.
        if isinstance(prompt, str):
            return self._encode_text(prompt, parse_special, add_special)
        if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
            raise InvalidRequest(
                f"A prompt is a text, a list of token ids or a list of messages, not {type(prompt).__name__}.",
                param="prompt",
            )
        if not prompt:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        if isinstance(prompt[0], Mapping):
            return self._encode_chat(prompt, template or TemplateOptions())  # type: ignore[arg-type]
        return _token_ids(prompt)

    def _encode_text(self, text: str, parse_special: bool, add_special: bool) -> tuple[int, ...]:
        if not text:
            raise InvalidRequest("The prompt is empty.", param="prompt")
        _check_text(text)
        tokenizer = self._tokenizer if parse_special else self._plain
        return tuple(_ids(tokenizer, text, add_special=add_special))

    def _encode_chat(self, messages: Sequence[Mapping[str, Any]], options: TemplateOptions) -> tuple[int, ...]:
        if self._template is None:
            raise InvalidRequest("This model has no chat template: give the prompt as text.", param="messages")
        for position, message in enumerate(messages):
            _check_message(message, position)
        # What the template writes itself may be control tokens, and what a user wrote may not: names of special tokens
        # are covered in all that goes into the template, and what was covered is encoded as ordinary text.
        shield = Shield(self._special)
        text = self._template.render(
            [_joined_content(shield.cover(message)) for message in messages],
            tools=shield.cover(options.tools) if options.tools else None,
            add_generation_prompt=options.add_generation_prompt,
            continue_final_message=options.continue_final_message,
            variables=shield.cover(options.variables or {}),
        )
        _check_text(text)
        token_ids: list[int] = []
        for piece, covered in shield.split(text):
            tokenizer = self._plain if covered else self._tokenizer
            token_ids += _ids(tokenizer, piece, add_special=False)
        return tuple(token_ids)


def _check_message(message: Any, position: int) -> None:
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"Message {position} is not an object with role and content.", param="messages")
    role = message.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise InvalidRequest(f"Message {position} needs a role such as user, not {role!r}.", param="messages")
    if "content" not in message and "tool_calls" not in message:
        raise InvalidRequest(f"Message {position} has neither content nor tool_calls.", param="messages")


def _joined_content(message: dict[str, Any]) -> dict[str, Any]:
    """Content in parts of text becomes one text.

    :raises InvalidRequest: a part that is no text.
    """
    content = message.get("content")
    if content is None or isinstance(content, str):
        return {**message, "content": content}
    if not isinstance(content, list):
        raise InvalidRequest("The content of a message is a text or a list of text parts.", param="messages")
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest("A part of a message's content is not a text part.", param="messages")
        texts.append(part["text"])
    return {**message, "content": "".join(texts)}


def _token_ids(values: Sequence[Any]) -> tuple[int, ...]:
    """Values as plain integers. Whether the model has such ids is checked by `actors.request.checks`."""
    if set(map(type, values)) == {int}:  # the usual case, an eighth of the time of the loop
        return tuple(values)
    return tuple(_token_id(value, position) for position, value in enumerate(values))


def _token_id(value: Any, position: int) -> int:
    """Let numpy's and torch's integers through, too; bool is none."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidRequest(f"Position {position} of the prompt is not a token id: {value!r}.", param="prompt")
    return index(value)


def _ids(tokenizer: Tokenizer, text: str, *, add_special: bool) -> list[int]:
    """Token ids of a text. For a long one most of the work is where each token stood, which only batches can leave."""
    if len(text) < _LONG_CHARACTERS:
        encoding = tokenizer.encode(text, add_special_tokens=add_special)
    else:
        (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=add_special)
    ids: list[int] = encoding.ids
    return ids


def _check_text(text: str) -> None:
    if len(text) > _MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(f"The prompt is longer than {_MAX_PROMPT_CHARACTERS} characters.", param="prompt")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            "The prompt holds half a surrogate pair, which is not valid text.", param="prompt"
        ) from None


def _special_tokens(directory: Path) -> dict[str, str]:
    """The named special tokens that templates use: bos_token, eos_token and their like."""
    tokens = {}
    for name, value in read_tokenizer_config(directory).items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens
