"""The shared grammar mask as a filter of the library's sampler."""

from __future__ import annotations

import numpy as np
import torch
from exllamav2.generator.filters import ExLlamaV2Filter

from actors.engines.grammar import GrammarMask, token_mask, words_needed
from actors.errors import InvalidRequest


class GrammarFilter(ExLlamaV2Filter):  # type: ignore[misc]
    """Masks logits by a grammar. One per job.

    The mask is computed on the library's filter threads while the GPU works. A grammar that turns out too complex is
    noted in `failure` instead of being raised, since an exception inside a step would cost all jobs of the batch.
    """

    def __init__(self, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        super().__init__(None, None)
        self._mask: GrammarMask | None = None
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._words = np.zeros(words_needed(vocab_size), dtype=np.int32)
        self._closed = False
        self.failure: InvalidRequest | None = None

    def use(self, mask: GrammarMask) -> None:
        """Before the job starts: the grammar is compiled."""
        self._mask = mask

    def close(self) -> None:
        """The job is over. Whatever still holds it, its grammar's process ends; nothing waits for it any more."""
        if self._mask is not None:
            self._mask.close()
            self._closed = True

    @property
    def complete(self) -> bool:
        """Nothing but an end-of-sequence token can follow those that it was fed."""
        if self.failure is None:
            assert self._mask is not None, "a job starts when its grammar is there"
            try:
                self._mask.settle()
            except InvalidRequest as error:
                self.failure = error
            else:
                return self._mask.complete
        return False

    def begin(self, prefix_str: str) -> None:
        """The completion begins behind the prompt, so there is nothing to go over."""

    def feed(self, token: torch.Tensor) -> None:
        token_id = int(token)
        if self.failure is None and token_id not in self._eos_token_ids:
            assert self._mask is not None, "a job starts when its grammar is there"
            self._mask.feed(token_id)

    def use_background_worker(self) -> bool:
        return True

    def can_mask_logits(self) -> bool:
        return True

    def prepare_logit_mask(self) -> bool:
        # The generator may have queued it with the job's last token, which nothing follows.
        if self.failure is None and not self._closed:
            assert self._mask is not None, "a job starts when its grammar is there"
            try:
                self._mask.allowed(self._words)
            except InvalidRequest as error:
                self.failure = error
        return True

    def mask_logits(self, logits: torch.Tensor) -> torch.Tensor:
        if self.failure is None:
            allowed = torch.from_numpy(token_mask(self._words, self._vocab_size))
            logits[: self._vocab_size].masked_fill_(~allowed, -float("inf"))
            logits[self._vocab_size :] = -float("inf")
        return logits
