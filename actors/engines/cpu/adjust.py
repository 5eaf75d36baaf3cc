"""What changes one job's logits before a token is chosen: bias, penalties, forbidden ends and the grammar's mask."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from actors.engines.base import EngineJob
from actors.engines.grammar import GrammarMask, token_mask, words_needed
from actors.sampling import NEVER, SamplingParams


class Adjuster:
    """The state of one job. `end_ids` are the tokens that end its completion; `grammar` has gone over what is resumed
    of it."""

    def __init__(
        self, job: EngineJob, vocab_size: int, end_ids: Sequence[int], grammar: GrammarMask | None = None
    ) -> None:
        params = job.params
        self._params = params
        self._vocab_size = vocab_size
        self._end_set = frozenset(end_ids)
        self._end_ids = torch.tensor(end_ids, dtype=torch.long)
        self.grammar = grammar
        self._words = torch.zeros(words_needed(vocab_size), dtype=torch.int32).numpy()
        self._length_tokens = job.resumed_tokens
        self._bias = _bias(params, vocab_size)
        span = params.repetition_range
        repeats, counts = params.repetition_penalty != 1.0, bool(params.presence_penalty or params.frequency_penalty)
        self._all = _Window(vocab_size, span, job.token_ids) if repeats and span else None
        self._completion = _Window(vocab_size, span, job.completion_ids) if counts and span else None

    @property
    def active(self) -> bool:
        """Whether the next token's logits are to be changed at all."""
        return (
            self._bias is not None
            or self._all is not None
            or self._completion is not None
            or self.grammar is not None
            or self._length_tokens < self._params.min_new_tokens
        )

    def adjust(self, logits: Tensor) -> None:
        """Change the logits (vocab_size,) of the next token in place.

        :raises InvalidRequest: the grammar turned out too complex.
        """
        if self._bias is not None:
            logits += self._bias
        if self._all is not None:
            self._penalise_repetition(logits, self._all.counts)
        if self._completion is not None:
            counts = self._completion.counts
            logits -= self._params.presence_penalty * (counts > 0) + self._params.frequency_penalty * counts
        if self.grammar is not None:
            self.grammar.allowed(self._words)
            logits.masked_fill_(~torch.from_numpy(token_mask(self._words, self._vocab_size)), -math.inf)
        if self._length_tokens < self._params.min_new_tokens:
            self._forbid_end(logits)

    def announce(self, token_id: int) -> None:
        """Let the grammar begin to think about a token that `accept` will note, while other jobs are seen to."""
        if self.grammar is not None and token_id not in self._end_set:
            self.grammar.feed(token_id)

    def accept(self, token_id: int) -> None:
        """Note the token that was chosen, and announced.

        :raises InvalidRequest: the grammar turned out too complex.
        """
        self._length_tokens += 1
        for window in (self._all, self._completion):
            if window is not None:
                window.add(token_id)
        if self.grammar is not None:
            self.grammar.settle()

    def _penalise_repetition(self, logits: Tensor, counts: Tensor) -> None:
        penalty = self._params.repetition_penalty
        penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits.copy_(torch.where(counts > 0, penalised, logits))

    def _forbid_end(self, logits: Tensor) -> None:
        """A grammar that allows nothing but the end wins over the wish for more tokens."""
        ends = logits[self._end_ids]
        logits[self._end_ids] = -math.inf
        if self.grammar is not None and not logits.isfinite().any():
            logits[self._end_ids] = ends


class _Window:
    """How often each token occurs among the last `span` tokens (-1: all): counts (vocab_size,), float32."""

    def __init__(self, vocab_size: int, span: int, token_ids: Sequence[int]) -> None:
        recent = token_ids if span < 0 else token_ids[-span:]
        self._span = span
        self._recent = deque(recent if span > 0 else ())
        self.counts = torch.bincount(torch.tensor(recent, dtype=torch.long), minlength=vocab_size).float()

    def add(self, token_id: int) -> None:
        self.counts[token_id] += 1
        if self._span < 0:
            return
        self._recent.append(token_id)
        if len(self._recent) > self._span:
            self.counts[self._recent.popleft()] -= 1


def _bias(params: SamplingParams, vocab_size: int) -> Tensor | None:
    if not params.logit_bias:
        return None
    bias = torch.zeros(vocab_size)
    for token_id, value in params.logit_bias.items():
        bias[token_id] = -math.inf if value <= NEVER else value
    return bias
