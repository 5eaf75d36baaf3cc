"""What a job must answer, found by brute force: no cache, no pages, no batch, the whole text anew for every token.

The script is a model with few tokens to choose from, so that stop strings and banned strings meet often; which of them
comes next depends on the whole sequence. It has no two equal logits, so that greedy is one answer.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

import tests.engines.exllamav2.standin  # noqa: F401 - before anything that imports exllamav2
from actors.engines.base import EngineJob
from actors.engines.exllamav2.banned import MAX_TAKEN_BACK, MAX_TAKEN_BACK_PER_SETTLED
from actors.results import FinishReason
from tests.engines.exllamav2.standin import VOCAB_SIZE, StandInModel

Pieces = Callable[[int], bytes]


class ScriptedModel(StandInModel):
    """The stand-in, with the tokens of the script."""

    script: tuple[int, ...] = ()
    """The tokens that are likely, in no order. Set by who knows the tokenizer."""

    def logits_behind(self, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(scripted_logits(token_ids, ScriptedModel.script)).half()


class HalfRightModel(ScriptedModel):
    """Drafts what the script says, except behind every third sequence."""

    def logits_behind(self, token_ids: Sequence[int]) -> torch.Tensor:
        wrong = _digest(token_ids) % 3 == 0
        return super().logits_behind([*token_ids, 1] if wrong else token_ids)


def _digest(token_ids: Sequence[int]) -> int:
    return int.from_bytes(
        hashlib.blake2b(np.asarray(token_ids, dtype="<i4").tobytes(), digest_size=8).digest(), "little"
    )


def scripted_logits(token_ids: Sequence[int], script: Sequence[int]) -> np.ndarray:
    """Half a unit between the tokens of the script, in an order of the sequence's own; the others far below."""
    logits = -10.0 - np.arange(VOCAB_SIZE) / 64
    order = np.random.default_rng(_digest(token_ids)).permutation(len(script))
    logits[np.asarray(script)[order]] = 20.0 - 0.5 * np.arange(len(script))
    return logits


@dataclass
class Answer:
    """`token_ids` are all that were sampled and not taken back, a stop token excepted.

    The reason is ERROR where banned strings leave nothing to say; with `may_give_up` the engine may say so earlier.
    """

    token_ids: list[int]
    text: str
    reason: FinishReason
    completion_tokens: int
    stop_string: str | None = None
    stop_token_id: int | None = None
    may_give_up: bool = False


@dataclass
class BruteForce:
    """One job, token by token."""

    job: EngineJob
    piece: Pieces
    eos_token_ids: tuple[int, ...]
    made: list[int] = field(default_factory=list)
    forbidden: dict[tuple[int, ...], set[int]] = field(default_factory=dict)
    taken_back: int = 0

    def answer(self) -> Answer:
        found = self._answer()
        found.may_give_up = self.taken_back > MAX_TAKEN_BACK
        return found

    def _answer(self) -> Answer:
        params = self.job.params
        stops = {*params.stop_token_ids, *(() if params.ignore_eos else self.eos_token_ids)}
        while True:
            token = self._next_token(stops if len(self.made) < params.min_new_tokens else set())
            if token in self._forbidden_here or self.taken_back > self._most_taken_back:
                return Answer(self.made, self._text(final=True), FinishReason.ERROR, len(self.made))
            if token in stops and not (self._healed and not self.made and token == self.job.token_ids[-1]):
                made = len(self.made)
                return Answer(self.made, self._text(final=True), FinishReason.STOP, made + 1, stop_token_id=token)
            self.made.append(token)
            end = self._end()
            if end is not None:
                return end

    def _end(self) -> Answer | None:
        params, made = self.job.params, len(self.made)
        text, before = self._text(), len(self._text(made - 1))
        stop = first_match(text, params.stop, before) if made >= params.min_new_tokens else None
        banned = first_match(text.lower(), [each.lower() for each in params.banned_strings], before)
        if stop is not None and (banned is None or stop[0] <= banned[0]):
            return Answer(self.made, text[: stop[1]], FinishReason.STOP, made, stop_string=stop[2])
        if banned is not None:
            place = next(n for n in range(made) if len(self._text(n + 1)) > banned[1])
            self.forbidden.setdefault(tuple(self.made[:place]), set()).add(self.made[place])
            self.taken_back += made - place
            del self.made[place:]
        elif made == self.job.max_new_tokens:
            return Answer(self.made, self._text(final=True), FinishReason.LENGTH, made)
        return None

    @property
    def _forbidden_here(self) -> set[int]:
        return self.forbidden.get(tuple(self.made), set())

    @property
    def _most_taken_back(self) -> int:
        return MAX_TAKEN_BACK + MAX_TAKEN_BACK_PER_SETTLED * self.job.max_new_tokens

    @property
    def _healed(self) -> bool:
        return self.job.params.token_healing and len(self.job.token_ids) > 1

    def _next_token(self, stops: set[int]) -> int:
        prompt = list(self.job.token_ids)
        if self._healed:
            prompt.pop()
        logits = scripted_logits([*prompt, *self.made], ScriptedModel.script)
        for token, bias in self.job.params.logit_bias.items():
            logits[token] += bias
        logits[list(stops | self._forbidden_here)] = -1e30
        if self._healed and not self.made:
            prefix = self.piece(self.job.token_ids[-1])
            other = [token for token in range(VOCAB_SIZE) if not self.piece(token).startswith(prefix)]
            logits[other] = -np.inf
        return int(logits.argmax())

    def _text(self, tokens: int | None = None, *, final: bool = False) -> str:
        """The text of the first so many tokens, without a character that is not complete, or with it at the end."""
        shown = self._behind_prompt(self.made[:tokens], final)
        return shown[len(self._behind_prompt(self.job.token_ids[-1:])) :] if self._healed else shown

    def _behind_prompt(self, token_ids: Sequence[int], final: bool = False) -> str:
        """The text of some tokens behind the prompt, whose last token is not there where it is healed."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        prompt = self.job.token_ids[:-1] if self._healed else self.job.token_ids
        for token in prompt[-4:]:
            decoder.decode(self.piece(token))
        return decoder.decode(b"".join(self.piece(token) for token in token_ids), final)


def first_match(text: str, strings: Sequence[str], after: int) -> tuple[int, int, str] | None:
    """End, start and string of the match that ends first behind `after`; of several, the one that begins first."""
    found = [
        (start + len(string), start, string)
        for string in strings
        for start in range(len(text))
        if text.startswith(string, start) and start + len(string) > after
    ]
    return min(found, default=None)
