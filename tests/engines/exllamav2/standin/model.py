"""A model whose next token depends on every token before it, read back through the block table from the cache.

So any mistake in paging, sharing, copying or replay changes what comes out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

VOCAB_SIZE = 512
SPREAD = 4.0
"""Standard deviation of the logits: peaked enough for samplers to have something to cut."""


@lru_cache(maxsize=4096)
def _logits_of(history: bytes, vocab_size: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.blake2b(history, digest_size=8).digest(), "little")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(vocab_size) * SPREAD).half()


def next_logits(token_ids: Sequence[int], vocab_size: int = VOCAB_SIZE) -> torch.Tensor:
    """The logits behind a sequence, float16: what the stand-in computes, without any cache."""
    return _logits_of(np.asarray(token_ids, dtype="<i4").tobytes(), vocab_size)


class StandInModel:
    """Has what the dynamic generator asks of `ExLlamaV2`. Keys hold the token's id; everything is on the CPU."""

    def __init__(
        self, directory: Path, *, vocab_size: int = VOCAB_SIZE, max_seq_len: int = 4096, max_input_len: int = 2048
    ) -> None:
        self.config = SimpleNamespace(
            model_dir=str(directory),
            vocab_size=vocab_size,
            max_seq_len=max_seq_len,
            max_input_len=max_input_len,
            max_batch_size=1,
            max_output_len=None,
            no_flash_attn=False,
            hidden_size=32,
            num_key_value_heads=1,
            num_hidden_layers=1,
            head_dim=32,
            arch=SimpleNamespace(lm=SimpleNamespace(mrope=False)),
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        self.cache_map = {0: "cpu"}
        self.padded_vocab_size = -(-vocab_size // 32) * 32
        self.fail_at: int | None = None
        self.failure: Exception = torch.cuda.OutOfMemoryError("CUDA out of memory. (injected)")
        self.calls: list[tuple[int, int, bool]] = []
        """(rows, tokens of a row, prefill) of every forward."""
        self.loras: list[Any] = []
        self.unloaded = False

    def unload(self) -> None:
        self.unloaded = True

    def forward_chunk(
        self,
        input_ids: torch.Tensor,
        attn_params: Any,
        cache: Any,
        preprocess_only: bool = False,
        loras: Any = None,
        indexed_embeddings: Any = None,
    ) -> dict[str, torch.Tensor]:
        self.calls.append((*input_ids.shape, preprocess_only))
        self.loras.append(loras)
        if self.fail_at is not None and len(self.calls) >= self.fail_at:
            self.fail_at = None
            raise self.failure
        rows, tokens = input_ids.shape
        logits = torch.full((rows, tokens, self.padded_vocab_size), -65504.0, dtype=torch.half)
        for row in range(rows):
            past, places = self._places(attn_params, row, tokens)
            keys = cache.key_states[0][0, :, 0]
            keys[places[past:], 0] = (input_ids[row] // 32).half()
            keys[places[past:], 1] = (input_ids[row] % 32).half()
            if preprocess_only:
                continue
            history = (keys[places, 0].long() * 32 + keys[places, 1].long()).numpy()
            for place in range(tokens):
                seen = history[: past + place + 1]
                logits[row, place, : self.config.vocab_size] = self.logits_behind(seen)
        return {} if preprocess_only else {"logits": logits}

    def logits_behind(self, token_ids: Sequence[int]) -> torch.Tensor:
        """The logits behind a sequence, float16."""
        return next_logits(token_ids, self.config.vocab_size)

    @staticmethod
    def _places(attn_params: Any, row: int, tokens: int) -> tuple[int, torch.Tensor]:
        """Where in the cache the row's tokens lie, past and new ones."""
        if hasattr(attn_params, "block_index"):
            past, size = int(attn_params.cache_seqlens[row]), attn_params.page_size
            blocks = attn_params.block_index[row].long()
        else:
            past, size, blocks = int(attn_params.past_len), 1 << 30, torch.zeros(1, dtype=torch.long)
        positions = torch.arange(past + tokens)
        return past, blocks[positions // size] * size + positions % size
