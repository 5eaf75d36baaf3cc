"""Names of special tokens in a user's text stay text, whatever a chat template makes of it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from actors.errors import InvalidRequest


def special_names(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """What matches the name of any special token, the longest that fits; None: there are none."""
    names = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


class Shield:
    """Keeps names of special tokens in a user's text apart from those that the template writes.

    `cover` replaces them by marks that nobody can guess, before the template runs; `split` finds the marks again in
    what it rendered, so that they can be encoded as ordinary text. A conversation without any is rendered and encoded
    in one piece, as transformers does.
    """

    def __init__(self, special: re.Pattern[str] | None) -> None:
        self._special = special
        self._nonce = secrets.token_hex(8)
        self._covered: list[str] = []

    def cover(self, value: Any) -> Any:
        """A copy of a JSON-like value with every special name in its texts replaced, keys of objects included.

        :raises InvalidRequest: it is nested too deeply, or holds itself.
        """
        try:
            return self._cover(value)
        except RecursionError:
            raise InvalidRequest("Messages, tools or variables are nested too deeply.", param="messages") from None

    def _cover(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if self._special is None else self._special.sub(self._replace, value)
        if isinstance(value, Mapping):
            return {self._cover(key): self._cover(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._cover(inner) for inner in value]
        return value

    def _replace(self, match: re.Match[str]) -> str:
        self._covered.append(match.group())
        return f"\ue000{self._nonce}:{len(self._covered) - 1}\ue001"

    def split(self, text: str) -> list[tuple[str, bool]]:
        """The rendered text in pieces; True marks those that are to be encoded as ordinary text."""
        if not self._covered:
            return [(text, False)]
        # Splitting at the marks leaves their numbers at the odd places.
        parts = re.split(f"\ue000{self._nonce}:(\\d+)\ue001", text)
        pieces = [(part, False) if at % 2 == 0 else (self._covered[int(part)], True) for at, part in enumerate(parts)]
        return [(part, covered) for part, covered in pieces if part]
