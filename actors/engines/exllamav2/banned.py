"""Strings that must not occur: which sampled tokens to take back, and which are safe to show.

Done here because the library's own way confuses its buffers after it has gone back (0.3.2, `rewind_checkpoint`): ids
that were taken back are streamed, and a second time raises inside the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.engines.exllamav2.opening import Opening
from actors.engines.text import Pieces, StopStrings, primed_decoder
from actors.sampling import SamplingParams

MAX_TRIES = 512
"""Tokens tried at one place before the job fails: its banned strings leave it nothing to say."""
MAX_TAKEN_BACK = 4096
MAX_TAKEN_BACK_PER_SETTLED = 8
"""Tokens taken back in all before the job fails: so many, and so many more for each one that stays. Without a bound of
the whole, tries at one place that each take tries at the places behind it would multiply."""
MAX_CHAINED = 64
"""Tokens that are kept undecided only because the one behind them is."""

_NOTHING_LEFT = "banned_strings leave nothing to say here."
_TOO_MANY_TAKEN_BACK = "Too many tokens had to be taken back for banned_strings: ban fewer strings, or longer ones."


@dataclass(frozen=True, slots=True)
class _Undecided:
    """A token that may be taken back: what it added to the text, and what is true behind it: the decoder's state, how
    many of the next characters are not shown, and how many at the text's end may begin a banned string."""

    text: str
    decoder: tuple[bytes, int]
    skipped: int
    held: int


class BannedStrings:
    """The tail of a completion that may still turn out to hold a banned string. Letter case does not matter.

    `prompt_ids` and `skipped` are those of the completion's `CompletionText`: what is looked at is what will be shown.
    `decided_ids` are the completion's beginning where it is resumed: they stay, and a string may have begun in them.
    A stop string that is complete no later than a banned one ends the completion before it, so it comes first.
    """

    # A token is undecided while a banned string may begin in it, which the end of the text may: "gc" where "cd" is
    # banned. Is there an undecided token behind it, then that one may be taken back and another be sampled in its
    # place. So the text up to there counts as an end too: behind "gc" and an undecided "xc", "gc" is not decided,
    # since "xc" may go and "dg" come. Such a chain is cut at `MAX_CHAINED`; `_context` is kept of what was decided, so
    # that a string that begins there is found, and costs the undecided tokens alone.

    def __init__(
        self,
        strings: Sequence[str],
        pieces: Pieces,
        prompt_ids: Sequence[int] = (),
        *,
        skipped: int = 0,
        stops: Sequence[str] = (),
        decided_ids: Sequence[int] = (),
    ) -> None:
        self._strings = StopStrings([_folded(text) for text in strings])
        self._stops = StopStrings(stops)
        self._pieces = pieces
        self._decoder = primed_decoder(pieces, prompt_ids)
        self._skipped = skipped
        self._context_characters = max(map(len, (*strings, *stops))) - 1
        self._context = self._end_of_text(self._shown(b"".join(map(pieces.piece, decided_ids))))
        self._before = _Undecided("", self._decoder.getstate(), self._skipped, 0)
        self._tail: list[_Undecided] = []
        self._tried: dict[int, set[int]] = {}  # place in the tail -> tokens that led to a banned string
        self._may_take_back = MAX_TAKEN_BACK
        self.dead_end: str | None = None
        """Why the completion cannot go on, once it cannot."""

    @property
    def blocked(self) -> set[int]:
        """Tokens that must not be sampled next."""
        return self._tried.get(len(self._tail), set())

    @property
    def undecided(self) -> int:
        """How many of the last tokens may still be taken back."""
        return len(self._tail)

    def push(self, token_id: int, tail_ids: Sequence[int], *, may_stop: bool = True) -> int:
        """Add a token; `tail_ids` are the undecided ones, this one last. Returns how many to take back.

        With `may_stop` off no stop string ends the completion with this token. Look at `dead_end` after a take-back.
        """
        if token_id in self.blocked:  # it would not have been sampled if there were another
            self.dead_end = _NOTHING_LEFT
            return 1
        text = self._shown(self._pieces.piece(token_id))
        joined = self._context + "".join(token.text for token in self._tail)
        before, joined = len(joined), joined + text
        folded = _folded(joined)
        match = self._strings.find(folded, before)
        stop = self._stops.find(joined, before) if may_stop else None
        self._tail.append(_Undecided(text, self._decoder.getstate(), self._skipped, self._strings.held(folded)))
        if stop is not None and (match is None or _end_of(stop) <= _end_of(match)):
            self._decide(len(self._tail))
            return 0
        if match is None:
            self._decide(len(self._tail) - self._count_undecided(len(joined)))
            return 0
        return self._take_back(self._token_at(match[0] - len(self._context)), tail_ids)

    def _take_back(self, place: int, tail_ids: Sequence[int]) -> int:
        """Drop the tokens from `place` on, and do not try that one there again; returns how many they are."""
        self._tried.setdefault(place, set()).add(tail_ids[place])
        self._tried = {at: tokens for at, tokens in self._tried.items() if at <= place}
        dropped = len(self._tail) - place
        del self._tail[place:]
        last = self._tail[-1] if self._tail else self._before
        self._decoder.setstate(last.decoder)
        self._skipped = last.skipped
        self._may_take_back -= dropped
        if len(self.blocked) > MAX_TRIES:
            self.dead_end = _NOTHING_LEFT
        elif self._may_take_back < 0:
            self.dead_end = _TOO_MANY_TAKEN_BACK
        return dropped

    def _token_at(self, character: int) -> int:
        """The place of the token that a match begins in, or of the first that can be taken back."""
        end = 0
        for place, token in enumerate(self._tail):
            end += len(token.text)
            if end > character:
                return place
        raise AssertionError("a match ends inside the tail")

    def _count_undecided(self, end: int) -> int:
        """How many of the last tokens may have to be taken back, where the text has `end` characters."""
        held = needed = end - self._tail[-1].held
        for place in range(len(self._tail) - 1, -1, -1):
            count = len(self._tail) - 1 - place
            if end <= (needed if count < MAX_CHAINED else held):
                return count
            end -= len(self._tail[place].text)
            needed = min(needed, end - self._tail[place - 1].held) if place else needed
        return len(self._tail)

    def _decide(self, count: int) -> None:
        """Let go of the first `count` tokens."""
        if not count:
            return
        self._context = self._end_of_text(self._context + "".join(token.text for token in self._tail[:count]))
        self._before = self._tail[count - 1]
        self._may_take_back += count * MAX_TAKEN_BACK_PER_SETTLED
        del self._tail[:count]
        self._tried = {at - count: tokens for at, tokens in self._tried.items() if at >= count}

    def _shown(self, data: bytes) -> str:
        """What some more bytes add to the text."""
        text = self._decoder.decode(data)
        skipped = min(self._skipped, len(text))
        self._skipped -= skipped
        return text[skipped:]

    def _end_of_text(self, decided: str) -> str:
        return decided[-self._context_characters :] if self._context_characters else ""


def banned_strings_of(params: SamplingParams, pieces: Pieces, opening: Opening) -> BannedStrings | None:
    """Those of one job, None if nothing is banned."""
    if not params.banned_strings:
        return None
    return BannedStrings(
        params.banned_strings,
        pieces,
        opening.prompt_ids,
        skipped=opening.healed,
        stops=params.stop,
        decided_ids=opening.completion_ids,
    )


def _end_of(match: tuple[int, str]) -> int:
    """Where a match ends."""
    return match[0] + len(match[1])


def _folded(text: str) -> str:
    """Small letters, as many characters as before, each of them whatever stands beside it."""
    if text.isascii():
        return text.lower()
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text).replace("ς", "σ")
