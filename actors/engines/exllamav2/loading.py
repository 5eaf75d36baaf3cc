"""From a configuration to a generator that is ready to step, or one sentence about why not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from exllamav2 import ExLlamaV2Lora, ExLlamaV2Tokenizer
from tokenizers import Tokenizer

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.base import ProgressCallback
from actors.engines.end_tokens import read_eos_token_ids
from actors.engines.exllamav2.checks import supported_parameters
from actors.engines.exllamav2.generator import PoolGenerator, PrefillBounds
from actors.engines.exllamav2.weights import Weights, load_weights
from actors.engines.grammar import Grammars
from actors.engines.text import TokenPieces
from actors.errors import ExlpoolError, ModelError
from actors.messages import LoadProgress, WorkerLimits
from actors.paging.hashes import PAGE_TOKENS

logger = logging.getLogger(__name__)

MAX_SAMPLING_THREADS = 16


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to generate. `unload` gives its memory back."""

    generator: PoolGenerator
    limits: WorkerLimits
    pieces: TokenPieces
    grammars: Grammars
    weights: Weights | None = None

    def unload(self) -> None:
        for pool in (getattr(self.generator, "sampling_pool", None), self.generator.filter_pool):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        if self.weights is not None:
            self.weights.unload()


def load_model(config: EngineConfig, progress: ProgressCallback) -> LoadedModel:
    """Load weights and reserve the cache on the GPUs that this process may see.

    :raises ModelError: the directory is unusable, the library does not know the model, or it does not fit.
    """
    path = config.model or builtin_model_path()
    with _told_as_model_error(path), torch.inference_mode():
        weights = load_weights(config, path, progress)
        try:
            progress(LoadProgress("tokenizer", 0, 1))
            tokenizer = make_tokenizer(weights.config)
            progress(LoadProgress("tokenizer", 1, 1))
            loaded = assemble(config, path, weights, tokenizer)
            _load_lora(config, loaded, weights)
        except BaseException:
            weights.unload()
            raise
    return loaded


@contextmanager
def _told_as_model_error(path: Path) -> Iterator[None]:
    """The library reports faults of a model with bare assertions and ValueErrors."""
    try:
        yield
    except ExlpoolError:
        raise
    except (AssertionError, ValueError, LookupError, OverflowError, TypeError, FileNotFoundError) as error:
        raise ModelError(f"ExLlamaV2 cannot load {path}: {str(error).strip(' #.') or type(error).__name__}.") from error


def make_tokenizer(library_config: Any) -> ExLlamaV2Tokenizer:
    """The library's tokenizer, with text that looks like a special token kept apart from special tokens, and the
    lists made that would otherwise stall the first request that needs them. Ids that config.json gives for special
    tokens and that are no tokens of the model are not shown to it."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token_id = getattr(library_config, name)
        if token_id is not None and not 0 <= token_id < library_config.vocab_size:
            setattr(library_config, name, None)
    tokenizer = ExLlamaV2Tokenizer(library_config)
    tokenizer.tokenizer_model.hf_tokenizer.encode_special_tokens = True
    tokenizer.get_id_to_piece_list(True)
    return tokenizer


def assemble(config: EngineConfig, path: Path, weights: Weights, tokenizer: ExLlamaV2Tokenizer) -> LoadedModel:
    """Put a generator round loaded weights, and say what it can take."""
    options = config.exllamav2
    drafting = options.draft_model is not None or options.ngram_draft
    draft_tokens = options.draft_tokens if drafting else 0
    library_config = weights.config
    chunk = library_config.max_input_len // PAGE_TOKENS * PAGE_TOKENS
    batch_size = config.max_batch_size if weights.paged else 1
    generator = PoolGenerator(
        bounds=PrefillBounds(min(config.chunk_tokens, chunk), options.max_prefills, chunk),
        model=weights.model,
        cache=weights.cache,
        tokenizer=tokenizer,
        max_batch_size=batch_size,
        max_q_size=draft_tokens + 1,
        draft_model=weights.draft_model,
        draft_cache=weights.draft_cache,
        num_draft_tokens=draft_tokens,
        use_ngram_draft=options.ngram_draft,
        max_sampling_threads=sampling_threads(config),
        paged=weights.paged,
    )
    eos_token_ids = read_eos_token_ids(path, library_config.vocab_size)
    tokenizer_json = (path / "tokenizer.json").read_text(encoding="utf-8")
    limits = WorkerLimits(
        engine="exllamav2",
        model=path.name,
        context_tokens=min(weights.context_tokens, weights.cache.max_seq_len),
        total_pages=weights.cache.max_seq_len // PAGE_TOKENS,
        max_batch_size=batch_size,
        vocab_size=library_config.vocab_size,
        eos_token_ids=eos_token_ids,
        supported_parameters=supported_parameters(drafting=drafting),
        reserve_tokens=draft_tokens,
    )
    grammars = Grammars(tokenizer_json, vocab_size=limits.vocab_size, eos_token_ids=eos_token_ids)
    return LoadedModel(generator, limits, TokenPieces(Tokenizer.from_str(tokenizer_json)), grammars, weights)


def sampling_threads(config: EngineConfig) -> int:
    """Threads that sample full rows: the cores of this process, shared by the GPUs that it does not drive alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(config.cpu_threads, min(cores, MAX_SAMPLING_THREADS), 1)


def _load_lora(config: EngineConfig, loaded: LoadedModel, weights: Weights) -> None:
    """One adapter for the engine's whole life: pages of the cache do not know which adapter made them."""
    options = config.exllamav2
    if options.lora is None:
        return
    adapter = ExLlamaV2Lora.from_directory(weights.model, str(options.lora), lora_scaling=options.lora_scale)
    loaded.generator.current_loras = [adapter]
    loaded.generator.reset_page_table()
