"""From an engine's configuration to everything that generation needs, or one sentence about why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.base import ProgressCallback
from actors.engines.cpu.cache import SPACING_TOKENS, PagePool, row_tokens
from actors.engines.cpu.model import PackedModel
from actors.engines.end_tokens import read_eos_token_ids
from actors.engines.grammar import Grammars
from actors.engines.model_dir import WeightKind, inspect_model_dir
from actors.engines.text import TokenPieces
from actors.errors import ModelError
from actors.messages import LoadProgress, WorkerLimits
from actors.paging.hashes import PAGE_TOKENS, pages_needed

DEFAULT_CACHE_BYTES = 2**30
ROWS_PART_OF_FREE_MEMORY = 4
"""Jobs that share pages may take a fourth of the memory that is free at load: several workers load on one machine."""
SUPPORTED_PARAMETERS = frozenset(
    {
        "max_new_tokens",
        "min_new_tokens",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "repetition_range",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "logprobs",
        "json_schema",
        "regex",
        "lark",
    }
)
_MEMORY_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_USAGE_FILES = ("memory.current", "memory.usage_in_bytes")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to generate, with its page pool and room for the rows of running jobs."""

    model: PackedModel
    pool: PagePool
    rows_room_tokens: int
    pieces: TokenPieces
    grammars: Grammars
    limits: WorkerLimits


def load(config: EngineConfig, progress: ProgressCallback) -> Loaded:
    """Load the configured model and reserve its cache.

    :raises ModelError: the directory is unusable, needs a GPU, or does not fit into memory.
    """
    path = config.model or builtin_model_path()
    directory = inspect_model_dir(path)
    if directory.kind is not WeightKind.UNQUANTISED:
        raise ModelError(
            f"{path} holds {directory.kind.upper()} weights, which need a GPU: run it with `engine: exllamav2`, "
            "or use the unquantised version of the model on the CPU engine."
        )
    torch.set_num_threads(config.cpu_threads)
    steps = iter(range(1, 4))
    progress(LoadProgress("weights", 0, 3))
    model = PackedModel(path, config.context_tokens)
    eos_token_ids = read_eos_token_ids(path, model.vocab_size)
    progress(LoadProgress("weights", next(steps), 3))
    tokenizer_json = (path / "tokenizer.json").read_text(encoding="utf-8")
    pieces = TokenPieces(_tokenizer(path, tokenizer_json))
    grammars = Grammars(tokenizer_json, vocab_size=model.vocab_size, eos_token_ids=eos_token_ids)
    progress(LoadProgress("tokenizer", next(steps), 3))
    context_tokens = model.context_tokens
    pages = _cache_pages(config, model, context_tokens)
    rows_room_tokens = _rows_room_tokens(config, model, context_tokens, pages)
    pool = _reserve(model, pages, rows_room_tokens, min(context_tokens, pages * PAGE_TOKENS))
    progress(LoadProgress("cache", next(steps), 3))
    limits = WorkerLimits(
        engine="cpu",
        model=path.name,
        context_tokens=context_tokens,
        total_pages=pages,
        max_batch_size=config.max_batch_size,
        vocab_size=model.vocab_size,
        eos_token_ids=eos_token_ids,
        supported_parameters=SUPPORTED_PARAMETERS,
    )
    return Loaded(model, pool, rows_room_tokens, pieces, grammars, limits)


def _tokenizer(path: Path, tokenizer_json: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for a file that it cannot read
        raise ModelError(f"{path / 'tokenizer.json'} cannot be read: {error}.") from None


def _cache_pages(config: EngineConfig, model: PackedModel, context_tokens: int) -> int:
    """As configured; else enough for a full batch of longest sequences, within DEFAULT_CACHE_BYTES."""
    if config.cache_tokens is not None:
        return config.cache_tokens // PAGE_TOKENS
    wanted = config.max_batch_size * pages_needed(context_tokens)
    return max(1, min(wanted, DEFAULT_CACHE_BYTES // (PAGE_TOKENS * _token_bytes(model))))


def _rows_room_tokens(config: EngineConfig, model: PackedModel, context_tokens: int, pages: int) -> int:
    """How many tokens the rows of running jobs may take together.

    Each job has its whole sequence in its row, what it shares with others included. So jobs that share long beginnings
    take far more than the cache has pages. What the pages can hold without sharing is there always, and beyond it what
    a full batch can use, up to a part of the memory that is free; jobs for which there is no more wait for a row.
    """
    largest = config.max_batch_size * row_tokens(min(context_tokens, pages * PAGE_TOKENS))
    unshared = pages * (2 * PAGE_TOKENS + SPACING_TOKENS)  # a row takes up to twice its pages
    spare = available_bytes() // ROWS_PART_OF_FREE_MEMORY // _token_bytes(model)
    return min(largest, max(unshared, spare))


def _reserve(model: PackedModel, pages: int, rows_room_tokens: int, longest_tokens: int) -> PagePool:
    """:raises ModelError: there is no memory for the cache and the rows of running jobs."""
    # A row that moves to where it can grow is there twice for a moment, half as large the first time.
    tokens = pages * PAGE_TOKENS + rows_room_tokens + row_tokens(longest_tokens) // 2
    needed = tokens * _token_bytes(model)
    free = available_bytes()
    try:
        if needed > free:
            raise MemoryError
        return PagePool(model.shapes, pages)
    except (RuntimeError, MemoryError):
        raise ModelError(
            f"A cache of {pages * PAGE_TOKENS:,} tokens takes {needed / 2**30:.1f} GiB of memory, running jobs "
            f"included, and {free / 2**30:.1f} GiB are free: set a smaller cache_tokens."
        ) from None


def _token_bytes(model: PackedModel) -> int:
    return sum(shape.token_bytes for shape in model.shapes)


def available_bytes() -> int:
    """Memory that this process may still take: what the kernel calls available, within the container's limit.

    Unbounded where neither can be known.
    """
    bounds = [2**63]
    bounds += [_meminfo_available()] if Path("/proc/meminfo").exists() else []
    for file in _MEMORY_FILES:
        if file.exists() and (text := file.read_text().strip()).isdigit():
            bounds.append(max(0, int(text) - _used_bytes(file.parent)))
    return min(bounds)


def _used_bytes(group: Path) -> int:
    """What a container's processes use of its limit, without the files that the kernel may forget."""
    used = [int(file.read_text()) for name in _USAGE_FILES if (file := group / name).exists()]
    statistics = group / "memory.stat"
    lines = statistics.read_text(encoding="ascii").splitlines() if statistics.exists() else []
    forgettable = [
        int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "total_inactive_file "))
    ]
    return max(0, min(used, default=0) - max(forgettable, default=0))


def _meminfo_available() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return kilobytes * 1024
