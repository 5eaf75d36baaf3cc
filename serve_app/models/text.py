"""Text and tokens of one model, as an HTTP server needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from actors.engines.text import TokenPieces
from actors.errors import ContextLengthExceeded
from actors.front.front import LONG_PROMPT
from actors.request.prompt import Prompt, PromptEncoder, TemplateOptions
from serve_app.models.token_names import TokenNames
from serve_app.models.tool_format import ToolFormat, added_tokens, detect_format

_NORMALIZED = 4
"""Characters of which some tokenizer's normalization could make one."""


class ModelText:
    def __init__(self, encoder: PromptEncoder) -> None:
        """Takes a while for a large vocabulary."""
        self.names = TokenNames(encoder.tokenizer, TokenPieces(encoder.tokenizer))
        self.tool_format: ToolFormat | None = detect_format(encoder.template_source, added_tokens(encoder.tokenizer))
        self.knows_developer = "developer" in (encoder.template_source or "")
        """Whether the chat template has a developer role of its own; elsewhere such messages are system messages."""
        self._encoder = encoder
        self._longest_token = max(map(len, encoder.tokenizer.get_vocab()))

    async def encode(
        self,
        prompt: Prompt,
        template: TemplateOptions | None = None,
        *,
        size: int,
        room: int | None = None,
        add_special: bool = True,
    ) -> tuple[int, ...]:
        """Token ids of a prompt. `size` is about how many characters it has: long ones leave the event loop alone.
        What can never fit `room` tokens is not encoded at all.

        :raises ContextLengthExceeded: it is far too long; a little too long is for others to find.
        :raises InvalidRequest: an empty prompt, messages that the template refuses, a model without a template.
        """
        if room is not None:
            self._refuse_hopeless(prompt, room)
        if size < LONG_PROMPT:
            return self._encoder.encode(prompt, template, add_special=add_special)
        return await asyncio.to_thread(self._encoder.encode, prompt, template, add_special=add_special)

    def _refuse_hopeless(self, prompt: Prompt, room: int) -> None:
        tokens, characters = _length(prompt)
        if tokens < room and characters <= room * self._longest_token * _NORMALIZED:
            return
        size = f"{tokens} tokens" if tokens else f"{characters} characters"
        raise ContextLengthExceeded(
            f"This model's maximum context length is {room} tokens, but the prompt has {size}.", param="prompt"
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; special tokens have none."""
        return str(self._encoder.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    async def decode_all(self, token_ids: Sequence[int]) -> str:
        """The text of token ids with the names of special tokens; a long list leaves the event loop alone."""
        if len(token_ids) < LONG_PROMPT:
            return self._decode_all(token_ids)
        return await asyncio.to_thread(self._decode_all, token_ids)

    def _decode_all(self, token_ids: Sequence[int]) -> str:
        return str(self._encoder.tokenizer.decode(list(token_ids), skip_special_tokens=False))


def _length(prompt: Prompt) -> tuple[int, int]:
    """How many token ids a prompt holds, and how many characters of text."""
    if isinstance(prompt, str):
        return 0, len(prompt)
    if prompt and isinstance(prompt[0], int):
        return len(prompt), 0
    contents = [message.get("content") for message in prompt if isinstance(message, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, Mapping)]
    texts = [*contents, *(part.get("text") for part in parts)]
    return 0, sum(len(text) for text in texts if isinstance(text, str))
