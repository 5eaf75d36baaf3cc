"""Text and tokens of one model, as an HTTP server needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from actors.engines.text import TokenPieces
from actors.front import LONG_PROMPT
from actors.tokenizer import Prompt, PromptEncoder, TemplateOptions
from serve_app.logprobs import TokenNames
from serve_app.tools import ToolFormat, added_tokens, detect_format


class ModelText:
    def __init__(self, encoder: PromptEncoder) -> None:
        """Takes a while for a large vocabulary."""
        self.names = TokenNames(encoder.tokenizer, TokenPieces(encoder.tokenizer))
        self.tool_format: ToolFormat | None = detect_format(encoder.template_source, added_tokens(encoder.tokenizer))
        self.knows_developer = "developer" in (encoder.template_source or "")
        """Whether the chat template has a developer role of its own; elsewhere such messages are system messages."""
        self._encoder = encoder

    async def encode(
        self, prompt: Prompt, template: TemplateOptions | None = None, *, size: int, add_special: bool = True
    ) -> tuple[int, ...]:
        """Token ids of a prompt. `size` is about how many characters it has: long ones leave the event loop alone.

        :raises InvalidRequest: an empty prompt, messages that the template refuses, a model without a template.
        """
        if size < LONG_PROMPT:
            return self._encoder.encode(prompt, template, add_special=add_special)
        return await asyncio.to_thread(self._encoder.encode, prompt, template, add_special=add_special)

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
