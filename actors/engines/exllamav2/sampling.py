"""Sampling for a whole decode step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from actors.engines.exllamav2.job import PoolJob

if TYPE_CHECKING:
    from actors.engines.exllamav2.generator import PoolGenerator


class BatchSampler:
    """Chooses the next token of every job of a step."""

    def __init__(self, generator: PoolGenerator) -> None:
        self._generator = generator
        self._rows = generator.logits_pinned

    def sample(self, jobs: Sequence[PoolJob], logits: torch.Tensor) -> list[torch.Tensor]:
        """One (1, 1) tensor of a token id per job, from logits (jobs, 1, padded vocabulary) on the device."""
        draws = [job.rng.random() for job in jobs]
        rows = self._rows[: len(jobs), :1, :]
        rows.copy_(logits)
        return self._generator.sample_rows(jobs, rows, draws)
