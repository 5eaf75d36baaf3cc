"""Log probabilities in the two shapes that OpenAI has for them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from actors.results import TokenLogprobs
from serve_app.models.token_names import TokenNames

FLOOR = -9999.0
"""Stands for minus infinity, which JSON does not have."""


def chat_logprobs(names: TokenNames, values: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
    """The entries of `logprobs.content` of a chat."""
    return [
        {
            **_entry(names, value.token_id, value.logprob),
            "top_logprobs": [_entry(names, token_id, logprob) for token_id, logprob in value.top],
        }
        for value in values
    ]


def _entry(names: TokenNames, token_id: int, logprob: float) -> dict[str, Any]:
    text, shown_bytes = names.shown(token_id)
    return {"token": text, "logprob": max(logprob, FLOOR), "bytes": shown_bytes and list(shown_bytes)}


class CompletionLogprobsWriter:
    """The `logprobs` of one plain completion, piece by piece: `text_offset` goes on from piece to piece."""

    def __init__(self, names: TokenNames, offset: int = 0) -> None:
        """`offset` is where the completion begins in the text that the client gets."""
        self._names = names
        self._offset = offset
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, values: Sequence[TokenLogprobs]) -> dict[str, Any]:
        offsets = []
        for value in values:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._names.pieces.piece(value.token_id)))
        return {
            "tokens": [self._names.shown(value.token_id)[0] for value in values],
            "token_logprobs": [max(value.logprob, FLOOR) for value in values],
            "top_logprobs": [self._top(value) for value in values],
            "text_offset": offsets,
        }

    def _top(self, value: TokenLogprobs) -> dict[str, float]:
        """By text, the sampled token always among them. Tokens of one text count as the likeliest of them."""
        top: dict[str, float] = {}
        for token_id, logprob in (*value.top, (value.token_id, value.logprob)):
            text = self._names.shown(token_id)[0]
            top[text] = max(logprob, FLOOR, top.get(text, FLOOR))
        return top
