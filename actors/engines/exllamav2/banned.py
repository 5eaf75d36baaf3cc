"""Strings that must not occur: which sampled tokens to take back, and which are safe to show.

Done here because the library's own way confuses its buffers after it has gone back (0.3.2, `rewind_checkpoint`): ids
that were taken back are streamed, and a second time raises inside the step.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from actors.engines.text import Pieces, StopStrings

MAX_TRIES = 512
"""Tokens tried at one place before the job fails: its banned strings leave it nothing to say."""


class BannedStrings:
    """The tail of a completion that may still turn out to hold a banned string. Letter case does not matter."""

    def __init__(self, strings: Sequence[str], pieces: Pieces) -> None:
        self._strings = StopStrings([text.lower() for text in strings])
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._before = self._decoder.getstate()
        self._tail: list[tuple[str, tuple[bytes, int]]] = []  # text of a token, decoder's state behind it
        self._tried: dict[int, set[int]] = {}  # place in the tail -> tokens that led to a banned string

    @property
    def blocked(self) -> set[int]:
        """Tokens that must not be sampled next."""
        return self._tried.get(len(self._tail), set())

    @property
    def undecided(self) -> int:
        """How many of the last tokens may still be taken back."""
        return len(self._tail)

    def push(self, token_id: int, tail_ids: Sequence[int]) -> int:
        """Add a token; `tail_ids` are the undecided ones, this one last. Returns how many to take back."""
        text = self._decoder.decode(self._pieces.piece(token_id)).lower()
        self._tail.append((text, self._decoder.getstate()))
        joined = "".join(part for part, _ in self._tail)
        match = self._strings.find(joined)
        if match is None:
            self._settle(len(joined) - self._strings.held(joined))
            return 0
        place = self._token_at(match[0])
        self._tried.setdefault(place, set()).add(tail_ids[place])
        self._tried = {at: tokens for at, tokens in self._tried.items() if at <= place}
        dropped = len(self._tail) - place
        del self._tail[place:]
        self._decoder.setstate(self._tail[-1][1] if self._tail else self._before)
        return dropped

    def _token_at(self, character: int) -> int:
        end = 0
        for place, (text, _) in enumerate(self._tail):
            end += len(text)
            if end > character:
                return place
        raise AssertionError("a match begins inside the tail")

    def _settle(self, characters: int) -> None:
        """Let go of the tokens whose text lies wholly within the first `characters`."""
        end = count = 0
        for text, _ in self._tail:
            end += len(text)
            if end > characters:
                break
            count += 1
        if count:
            self._before = self._tail[count - 1][1]
            del self._tail[:count]
            self._tried = {at - count: tokens for at, tokens in self._tried.items() if at >= count}
