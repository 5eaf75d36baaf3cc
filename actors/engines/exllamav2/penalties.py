"""Repetition, presence and frequency: which tokens they hit, and how."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from exllamav2.ext import exllamav2_ext as ext

from actors.sampling import NEVER, SamplingParams


class PenaltyMemory:
    """Which tokens the sequence and the completion hold, one flag per token id. Kept only where penalties are looked
    up without the full row of logits."""

    def __init__(self, prompt: Sequence[int], completion: Sequence[int], vocab_size: int, *, kept: bool) -> None:
        self._kept = kept
        self.in_sequence = np.zeros(vocab_size if kept else 0, dtype=np.bool_)
        self.in_completion = np.zeros(vocab_size if kept else 0, dtype=np.bool_)
        if kept:
            self.in_sequence[np.asarray(prompt)] = True
            self.in_completion[np.asarray(completion, np.int64)] = True
            self.in_sequence |= self.in_completion

    def add(self, token_id: int) -> None:
        if self._kept:
            self.in_sequence[token_id] = self.in_completion[token_id] = True


class LogitAdjustment:
    """What changes one job's row of logits before the library samples from it: bias first, then penalties.

    The library's own settings stay neutral, since it would count a presence or a frequency over the prompt too:
    repetition looks at prompt and completion, presence and frequency at the completion alone (OpenAI's meaning), all
    three at no more than the last `repetition_range` tokens. Only repetition fades out behind them.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        ids, values = list(params.logit_bias), list(params.logit_bias.values())
        values = [-math.inf if value <= NEVER else value for value in values]
        self._bias = (torch.tensor(ids, dtype=torch.long), torch.tensor(values, dtype=torch.float)) if ids else None

    def apply(self, logits: torch.Tensor, sequence: torch.Tensor, completion_tokens: int) -> None:
        """Change logits (1, 1, padded vocabulary) in place; `sequence` (1, tokens) ends with the completion."""
        params = self._params
        if self._bias is not None:
            ids, values = self._bias
            logits[0, 0, ids] += values
        span = sequence.shape[-1] if params.repetition_range < 0 else min(params.repetition_range, sequence.shape[-1])
        if params.repetition_penalty != 1.0:
            decay = params.repetition_decay
            ext.apply_rep_penalty(sequence, params.repetition_penalty, span, decay, 0.0, 0.0, logits)
        if params.presence_penalty or params.frequency_penalty:
            span = min(span, completion_tokens)
            ext.apply_rep_penalty(sequence, 1.0, span, 0, params.frequency_penalty, params.presence_penalty, logits)
