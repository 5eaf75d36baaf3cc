"""From token ids to text, one id at a time, in constant time per id: characters that are not complete yet and possible
beginnings of stop strings are withheld.

`TokenPieces` holds what each token adds to a text, as bytes; `StopStrings` finds stop strings; `CompletionText` is the
state of one completion. Text and ids are released together and in step: what has been released is always exactly the
text of the ids that have been released, so a completion can be continued from there by another engine.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PROMPT_TAIL = 4  # an incomplete UTF-8 character has at most 3 bytes, and a token of text at least one


class Pieces(Protocol):
    """Maps a token id to the bytes that it adds to a text; empty for special and unknown tokens."""

    def piece(self, token_id: int) -> bytes: ...


class TokenPieces:
    """The bytes of every token of a tokenizer, found when first asked for. One per tokenizer, shared by all its jobs.

    Byte-level and byte-fallback tokens are read from their names, since one of them alone may be no character; any
    other token is what it adds behind an ordinary token, so that a word keeps the space before it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        kinds = set(_decoder_kinds(tokenizer))
        self._bytes_of = _byte_alphabet() if "ByteLevel" in kinds else None
        self._byte_fallback = "ByteFallback" in kinds
        self._anchor = next(filter(self._is_plain, range(tokenizer.get_vocab_size())), None)
        self._anchor_text = "" if self._anchor is None else tokenizer.decode([self._anchor])
        self._known: dict[int, bytes] = {}

    def piece(self, token_id: int) -> bytes:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._find(token_id)
        return known

    def _find(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None or token_id in self._special:
            return b""
        if self._bytes_of is not None:
            values = [self._bytes_of.get(character) for character in token]
            known = bytes(value for value in values if value is not None)
            return known if len(known) == len(values) else token.encode()
        if self._byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        if self._anchor is None:
            return str(self._tokenizer.decode([token_id])).encode()
        behind = str(self._tokenizer.decode([self._anchor, token_id]))
        return behind.removeprefix(self._anchor_text).encode()

    def _is_plain(self, token_id: int) -> bool:
        return token_id not in self._special and str(self._tokenizer.decode([token_id])).strip().isalpha()


def _decoder_kinds(tokenizer: Tokenizer) -> Iterator[str]:
    if tokenizer.decoder is None:
        return
    specs: list[dict[str, Any]] = [json.loads(tokenizer.decoder.__getstate__())]
    while specs:
        spec = specs.pop()
        yield spec["type"]
        specs.extend(spec.get("decoders", ()))


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes printable bytes as themselves and the others, in order, as the characters from 256 on.
    Source: `bytes_to_unicode` in GPT-2's encoder.py."""
    printable = {character for character in ByteLevel.alphabet() if ord(character) < 256}
    others = (byte for byte in range(256) if chr(byte) not in printable)
    alphabet = {character: ord(character) for character in printable}
    return alphabet | {chr(256 + place): byte for place, byte in enumerate(others)}


class StopStrings:
    """The stop strings of one request. The match that ends first counts; of several that end together, the longest.

    So the outcome does not depend on how the text is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        self._longest_prefix = max((len(stop) for stop in self._stops), default=1) - 1
        self._prefixes = {stop[:length] for stop in self._stops for length in range(1, len(stop))}

    def find(self, text: str, after: int = 0) -> tuple[int, str] | None:
        """Where the first match that ends behind `after` begins, and what it is."""
        starts = ((stop, text.find(stop, max(after - len(stop) + 1, 0))) for stop in self._stops)
        ends = [(start + len(stop), start, stop) for stop, start in starts if start >= 0]
        if not ends:
            return None
        _, start, stop = min(ends)
        return start, stop

    def held(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop string."""
        longest = min(self._longest_prefix, len(text))
        return next((length for length in range(longest, 0, -1) if text[-length:] in self._prefixes), 0)


def primed_decoder(pieces: Pieces, prompt_ids: Sequence[int]) -> codecs.IncrementalDecoder:
    """A decoder that has read the prompt, so that the first bytes behind it may go on with its last character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token_id in prompt_ids[-_PROMPT_TAIL:]:
        decoder.decode(pieces.piece(token_id))
    return decoder


@dataclass(frozen=True, slots=True)
class Release:
    """What may be shown now: `text` is the text of `token_ids`, except that at a stop string the text goes up to it
    and the ids up to the last one that lies wholly before it. `stop` is that string."""

    text: str
    token_ids: tuple[int, ...]
    stop: str | None = None


class CompletionText:
    """The growing text of one completion behind a prompt.

    The prompt's last ids give the context: a character that the prompt began is released whole when it is complete.
    The first `skipped` characters belong to the prompt (token healing): they are neither shown nor part of a match.
    """

    def __init__(
        self,
        pieces: Pieces,
        prompt_ids: Sequence[int] = (),
        stops: StopStrings | None = None,
        *,
        skipped: int = 0,
    ) -> None:
        self._pieces = pieces
        self._stops = stops
        self._decoder = primed_decoder(pieces, prompt_ids)
        self._skipped = skipped
        self._held = ""
        self._waiting: deque[tuple[int, int, bool]] = deque()  # id, where its text ends in _held, no character is cut

    def push(self, token_id: int, *, may_stop: bool = True) -> Release:
        """Add a token. With `may_stop` off no stop string ends the completion with this token."""
        text = self._decoded(self._pieces.piece(token_id))
        whole = not self._decoder.getstate()[0]
        if whole and not self._waiting and self._stops is None:
            return Release(text, (token_id,))
        before = len(self._held)
        self._held += text
        self._waiting.append((token_id, len(self._held), whole))
        if self._stops is None:
            return self._release(len(self._held))
        # What ended before this token either would have ended the completion then or was not allowed to.
        match = self._stops.find(self._held, before) if may_stop else None
        if match is None:
            return self._release(len(self._held) - self._stops.held(self._held))
        start, stop = match
        text, ids = self._held[:start], self._release(start).token_ids
        self._held = ""
        self._waiting.clear()
        return Release(text, ids, stop)

    def finish(self) -> Release:
        """The completion ended otherwise than by a stop string: release what was withheld."""
        self._held += self._decoded(b"", final=True)
        release = Release(self._held, tuple(token_id for token_id, _, _ in self._waiting))
        self._held = ""
        self._waiting.clear()
        return release

    def _decoded(self, data: bytes, *, final: bool = False) -> str:
        text = self._decoder.decode(data, final=final)
        skipped = min(self._skipped, len(text))
        self._skipped -= skipped
        return text[skipped:]

    def _release(self, end: int) -> Release:
        """Release the ids whose text ends at or before `end` of the held text, without cutting a character."""
        count = cut = 0
        for place, (_, token_end, whole) in enumerate(self._waiting, start=1):
            if token_end > end:
                break
            if whole:
                count, cut = place, token_end
        ids = tuple(self._waiting.popleft()[0] for _ in range(count))
        text, self._held = self._held[:cut], self._held[cut:]
        if cut and self._waiting:
            self._waiting = deque((token_id, token_end - cut, whole) for token_id, token_end, whole in self._waiting)
        return Release(text, ids)
