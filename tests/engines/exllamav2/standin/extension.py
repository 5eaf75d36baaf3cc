"""`exllamav2_ext` in Python: what the dynamic generator and its sampler call on the CPU, and nothing else."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from typing import Any

import numpy as np
import torch

from tests.engines.exllamav2.standin import sampler


def count_match(a: torch.Tensor, b: torch.Tensor, max_a: int) -> int:
    length = min(int(max_a), a.shape[-1], b.shape[-1])
    different = (a[0, :length] != b[0, :length]).nonzero()
    return int(different[0]) if len(different) else length


def cache_rotate(cache: torch.Tensor, order: torch.Tensor, buffer: torch.Tensor) -> None:
    """Move pages along a cycle: the page at order[i + 1] goes to order[i]."""
    pages = order.tolist()
    first = cache[pages[0]].clone()
    for target, source in itertools.pairwise(pages):
        cache[target].copy_(cache[source])
    cache[pages[-1]].copy_(first)


def partial_strings_match(text: Any, offsets: Any, strings: Any) -> int:
    """Where a string begins in `text`; -2: one may begin at its end; -1: neither."""
    query = bytes(text).decode("utf-32-le")
    ends = np.frombuffer(offsets, dtype=np.int32)
    packed = bytes(strings)
    for begin, end in itertools.pairwise(ends):
        wanted = packed[begin:end].decode("utf-32-le")
        for start in range(len(query)):
            if query.startswith(wanted, start):
                return start
            if wanted.startswith(query[start:]):
                return -2
    return -1


def apply_rep_penalty(
    sequence: torch.Tensor,
    penalty: float,
    sustain: int,
    decay: int,
    frequency: float,
    presence: float,
    logits: torch.Tensor,
) -> None:
    row = logits.view(-1, logits.shape[-1])[0]
    ids = sequence[0].tolist()
    sustain = len(ids) if sustain == -1 else sustain
    begin = max(len(ids) - sustain - decay, 0)
    steps = ((1.0 - penalty) / decay, -frequency / decay, -presence / decay) if decay else (0.0, 0.0, 0.0)
    seen: set[int] = set()
    for token_id in reversed(ids[begin:]):
        if token_id < row.shape[0]:
            if token_id not in seen:
                seen.add(token_id)
                row[token_id] = (row[token_id] / penalty if row[token_id] > 0 else row[token_id] * penalty) - presence
            row[token_id] -= frequency
        sustain -= 1
        if sustain < 0:
            penalty, frequency, presence = penalty + steps[0], frequency + steps[1], presence + steps[2]


def logit_filter_exclusive(mask: torch.Tensor, lists: list[list[int]]) -> None:
    for row, allowed in zip(mask, lists, strict=True):
        keep = torch.zeros_like(row)
        keep[torch.tensor(allowed)] = True
        row &= keep


def fast_fill_cpu_ones_bool(tensor: torch.Tensor) -> None:
    tensor.fill_(True)


def fast_fadd_cpu(a: torch.Tensor, b: torch.Tensor) -> None:
    a.view(-1, b.numel()).add_(b)


def install() -> None:
    """Put the module in place, unless the compiled one is installed, and pretend that flash-attn is."""
    if "exllamav2_ext" not in sys.modules and importlib.util.find_spec("exllamav2_ext") is None:
        module = types.ModuleType("exllamav2_ext")
        functions = (
            count_match,
            cache_rotate,
            partial_strings_match,
            apply_rep_penalty,
            logit_filter_exclusive,
            fast_fill_cpu_ones_bool,
            fast_fadd_cpu,
            sampler.sample_basic,
        )
        for function in functions:
            setattr(module, function.__name__, function)
        sys.modules["exllamav2_ext"] = module
    from exllamav2 import attn

    attn.has_flash_attn_with_paged = True
