"""Weights and cache on the GPUs."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from exllamav2 import (
    ExLlamaV2,
    ExLlamaV2Cache,
    ExLlamaV2Cache_Q4,
    ExLlamaV2Cache_Q6,
    ExLlamaV2Cache_Q8,
    ExLlamaV2Cache_TP,
    ExLlamaV2Config,
    attn,
)
from exllamav2.architecture import ExLlamaV2ArchParams

from actors.config import EngineConfig
from actors.engines.base import ProgressCallback
from actors.engines.exllamav2.rope import apply_rope
from actors.engines.gpu_memory import GB, CacheShape, MemoryNeed, shortage
from actors.engines.model_dir import ModelDirectory, WeightKind, inspect_model_dir, read_model_config
from actors.errors import ModelError
from actors.messages import LoadProgress
from actors.paging.hashes import PAGE_TOKENS

logger = logging.getLogger(__name__)

CACHE_TYPES = {"fp16": ExLlamaV2Cache, "q8": ExLlamaV2Cache_Q8, "q6": ExLlamaV2Cache_Q6, "q4": ExLlamaV2Cache_Q4}
UNPAGED_WARNING = (
    "flash-attn 2.5.7 or newer is not usable here, so ExLlamaV2 runs without paged attention: ONE job at a time, no "
    "batching and hardly any prefix reuse. `exlpool doctor` says how to get the speed that this pool is made for."
)
_FILL_ATTEMPTS = 3


@dataclass(slots=True)
class Weights:
    """A loaded model with its cache. `context_tokens` bounds prompt and completion."""

    config: Any
    model: Any
    cache: Any
    paged: bool
    context_tokens: int
    quantised: bool = False
    draft_model: Any = None
    draft_cache: Any = None

    def unload(self) -> None:
        for model in (self.model, self.draft_model):
            if model is not None:
                model.unload()
        self.model = self.draft_model = self.cache = self.draft_cache = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load_weights(config: EngineConfig, path: Path, progress: ProgressCallback) -> Weights:
    """:raises ModelError: the library does not know the model, or it does not fit into the memory that is free."""
    directory = inspect_model_dir(path)
    if not torch.cuda.is_available():
        raise ModelError(
            "ExLlamaV2 needs an NVIDIA GPU and torch with CUDA, and this process sees none: `exlpool doctor` says "
            "what is missing on this machine."
        )
    if config.exllamav2.tensor_parallel and directory.kind is not WeightKind.EXL2:
        raise ModelError(
            f"exllamav2.tensor_parallel splits EXL2 weights only, and {path} holds {directory.kind} ones: "
            "leave it off, and they are spread over the GPUs by layers."
        )
    library_config, context_tokens = prepare_config(config, directory)
    paged = choose_attention(library_config)
    # How large is the cache?
    # - As configured: that, or an error.
    # - The split over the GPUs is configured: what should fit is tried once, since a second try would not be split so.
    # - Neither: what should fit, then 0.8 and 0.64 of the memory. Fragments and the driver take what nobody can know
    #   before, and loading is the only way to find out.
    cache_tokens = config.cache_tokens
    attempts = 1 if cache_tokens is not None or config.exllamav2.gpu_split else _FILL_ATTEMPTS
    for attempt in range(attempts):
        loader = _Loader(config, directory, library_config, progress)
        tokens = cache_tokens or loader.fill_tokens(context_tokens, shrink=0.8**attempt)
        try:
            return loader.load(tokens, paged, context_tokens)
        except ModelError:
            if attempt == attempts - 1:
                raise
            logger.warning("A cache of %d tokens does not fit beside the weights; trying a smaller one", tokens)
    raise AssertionError("the last attempt returns or raises")


def prepare_config(config: EngineConfig, directory: ModelDirectory) -> tuple[Any, int]:
    """The library's configuration of a model, and the bound on a job's tokens.

    :raises ModelError: the architecture or its position encoding is not one that the library knows.
    """
    raw = read_model_config(directory.path)
    require_known_architecture(directory, raw)
    library_config = ExLlamaV2Config(str(directory.path))
    library_config.arch_compat_overrides(quiet=True)
    options = config.exllamav2
    apply_rope(library_config, raw, directory.path, options)
    context_tokens = _context_tokens(config, library_config.max_seq_len)
    # The library sizes its position tables by this; a page is the least that it works with.
    library_config.max_seq_len = max(context_tokens, PAGE_TOKENS)
    library_config.max_input_len = max(min(options.max_input_tokens, library_config.max_seq_len), PAGE_TOKENS)
    rows = config.max_batch_size * ((options.draft_tokens if options.draft_model or options.ngram_draft else 0) + 1)
    if rows > library_config.max_input_len:
        raise ModelError(
            f"A step decodes up to {rows} rows (max_batch_size x drafted tokens), more than the "
            f"{library_config.max_input_len} of exllamav2.max_input_tokens: lower max_batch_size or raise the latter."
        )
    return library_config, context_tokens


def _context_tokens(config: EngineConfig, native_tokens: int) -> int:
    wanted = config.context_tokens
    options = config.exllamav2
    if wanted is None:
        return native_tokens
    if wanted > native_tokens and options.rope_scale is None and options.rope_alpha is None:
        raise ModelError(
            f"context_tokens is {wanted}, but the model was made for {native_tokens}: lower it, or set "
            "exllamav2.rope_scale or exllamav2.rope_alpha to stretch its positions."
        )
    return wanted


def require_known_architecture(directory: ModelDirectory, raw: dict[str, Any]) -> None:
    """The library loads an unknown architecture as Llama, with a line on the console.

    :raises ModelError: it would.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        known = ExLlamaV2ArchParams(directory.architecture, raw).arch_string
    if known != directory.architecture:
        raise ModelError(
            f"ExLlamaV2 does not know the architecture {directory.architecture} of {directory.path}: "
            "use another model, or `engine: cpu` with unquantised weights."
        )


def choose_attention(library_config: Any) -> bool:
    """Whether paged attention can be used. Without it the library's SDPA path must be off: it is not causal."""
    if attn.has_flash_attn_with_paged and not library_config.no_flash_attn:
        return True
    library_config.no_flash_attn = True
    library_config.no_sdpa = True
    logger.warning(UNPAGED_WARNING)
    return False


class _Loader:
    """One attempt to load a model and its cache."""

    def __init__(
        self, config: EngineConfig, directory: ModelDirectory, library_config: Any, progress: ProgressCallback
    ) -> None:
        self._config = config
        self._options = config.exllamav2
        self._progress = progress
        self._library_config = library_config
        self._quantised = directory.kind is not WeightKind.UNQUANTISED
        self._model = ExLlamaV2(library_config)
        devices = range(torch.cuda.device_count())
        self._free_bytes = sum(torch.cuda.mem_get_info(device)[0] for device in devices)
        shape = CacheShape(
            library_config.num_hidden_layers,
            library_config.num_key_value_heads,
            library_config.head_dim,
            config.cache_mode,
        )
        scratch = max(module.scratch_space_fixed() for module in self._model.modules)
        self._need = MemoryNeed(directory.weight_bytes, scratch, len(devices), shape.bytes_per_token)

    def fill_tokens(self, context_tokens: int, *, shrink: float) -> int:
        """What is left, within reason: no more than a full batch of longest jobs could use."""
        most = max(self._config.max_batch_size * context_tokens, PAGE_TOKENS)
        return self._need.tokens_that_fit(int(self._free_bytes * shrink), most)

    def load(self, cache_tokens: int, paged: bool, context_tokens: int) -> Weights:
        if self._need.weight_bytes > self._free_bytes:
            raise ModelError(self._shortage(cache_tokens))
        # Whatever goes wrong from here on, memory must be free again for the next try: frames of the traceback and the
        # half-made cache hold tensors. An interrupt (BaseException) leaves as little behind as an error does.
        weights = Weights(self._library_config, self._model, None, paged, context_tokens, self._quantised)
        try:
            weights.cache = self._load_main(cache_tokens)
            if self._options.draft_model is not None:
                weights.draft_model, weights.draft_cache = self._load_draft(self._options.draft_model, cache_tokens)
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold the tensors of a cache that is half there
            weights.unload()
            if is_out_of_memory(error):
                raise ModelError(self._shortage(cache_tokens)) from None
            raise
        return weights

    def _load_main(self, cache_tokens: int) -> Any:
        # Three ways onto the GPUs: each matrix split over all of them; layers where the configuration says; layers as
        # they fit, which makes the cache first, empty, and fills it while it loads.
        cache_type = CACHE_TYPES[self._config.cache_mode]
        split = None if self._options.gpu_split is None else list(self._options.gpu_split)
        if self._options.tensor_parallel:
            self._model.load_tp(
                split or _free_gb(),
                callback=self._report("weights"),
                expect_cache_tokens=cache_tokens,
                expect_cache_base=cache_type,
            )
            return ExLlamaV2Cache_TP(self._model, base=cache_type, max_seq_len=cache_tokens)
        if split is not None:
            self._model.load(split, callback=self._report("weights"))
            return cache_type(self._model, max_seq_len=cache_tokens)
        return self._autosplit(self._model, cache_type, cache_tokens, "weights")

    def _load_draft(self, path: Path, cache_tokens: int) -> tuple[Any, Any]:
        """The draft model's tables must reach as far as the main model's."""
        directory = inspect_model_dir(path)
        config = self._config.model_copy(update={"context_tokens": None})
        draft_config, _ = prepare_config(config, directory)
        if draft_config.vocab_size != self._library_config.vocab_size:
            raise ModelError(
                f"The draft model {path} has {draft_config.vocab_size} token ids and the model "
                f"{self._library_config.vocab_size}: a draft model must share the model's tokenizer."
            )
        draft_config.max_seq_len = max(draft_config.max_seq_len, self._library_config.max_seq_len)
        model = ExLlamaV2(draft_config)
        return model, self._autosplit(model, ExLlamaV2Cache, cache_tokens, "draft weights")

    def _autosplit(self, model: Any, cache_type: Any, cache_tokens: int, stage: str) -> Any:
        cache = cache_type(model, max_seq_len=cache_tokens, lazy=True)
        model.load_autosplit(cache, last_id_only=True, callback=self._report(stage))
        return cache

    def _report(self, stage: str) -> Any:
        return lambda done, total: self._progress(LoadProgress(stage, done, total))

    def _shortage(self, cache_tokens: int) -> str:
        return shortage(self._need, cache_tokens, self._free_bytes, self._config.cache_mode)


def is_out_of_memory(error: BaseException) -> bool:
    """torch's own error, or one of the library's two sentences for it."""
    text = str(error)
    return (
        isinstance(error, torch.cuda.OutOfMemoryError)
        or "Insufficient VRAM" in text
        or "Insufficient space in device allocation" in text
        or "out of memory" in text
    )


def _free_gb() -> list[float]:
    """Free memory of every visible device. Without it the library would parse nvidia-smi and CUDA_VISIBLE_DEVICES,
    which fails where that holds UUIDs."""
    return [torch.cuda.mem_get_info(device)[0] / GB for device in range(torch.cuda.device_count())]
