"""Deciding from a few candidates is exactly what the compiled sampler of the library decides from the whole row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from actors.sampling import SamplingParams, sampling_params

pytestmark = pytest.mark.gpu

VOCAB = 128256
ROWS = 64
SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"top_k": 2},
    {"top_k": 50},
    {"top_k": 50, "temperature": 1.7},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 50, "top_p": 0.9, "temperature": 0.8},
    {"top_p": 0.95},
    {"top_p": 0.5, "temperature": 0.6},
    {"min_p": 0.05},
    {"min_p": 0.3, "temperature": 1.5},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
    {"top_k": 400, "min_p": 0.02},
]


def of_the_library(row: torch.Tensor, params: SamplingParams, draw: float) -> int:
    from exllamav2.ext import exllamav2_ext, none_tensor

    from actors.engines.exllamav2.settings import sampler_settings

    used = sampler_settings(params)
    token, probability = torch.zeros((1, 1), dtype=torch.long), torch.zeros((1, 1))
    cuts = (used.temperature, used.top_k, used.top_p, used.top_a, used.min_p, used.tfs, used.typical)
    outputs = (token, probability, none_tensor, none_tensor, none_tensor)
    rest: tuple[Any, ...] = (False, [], 0.0, 0.0, 1.0, none_tensor, 0.0, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0)
    exllamav2_ext.sample_basic(row.float().cpu().view(1, 1, -1).clone(), *cuts, draw, *outputs, *rest)
    return int(token)


@pytest.mark.parametrize("spread", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_what_is_certain_equals_the_compiled_sampler(sampler: dict[str, Any], spread: float) -> None:
    from actors.engines.exllamav2.cut import choose, cut_of
    from actors.engines.exllamav2.sampling import most_likely

    params = sampling_params(**sampler)
    cut = cut_of(params)
    assert cut is not None
    generator = torch.Generator("cuda").manual_seed(int(spread * 10))
    logits = (torch.randn((ROWS, VOCAB), generator=generator, device="cuda") * spread).half()
    draws = np.random.default_rng(0).random(ROWS).tolist()
    tokens, certain = choose(most_likely(logits, cut.candidates), [cut] * ROWS, draws)
    for row in np.flatnonzero(certain):
        assert tokens[row] == of_the_library(logits[row], params, draws[row])
    if spread >= 4.0 and "min_p" not in sampler:
        assert certain.mean() > 0.7


@pytest.mark.parametrize("sampler", [{"top_k": 5}, {"top_k": 20, "top_p": 0.9}, {"temperature": 0.0}], ids=str)
def test_equal_logits_are_ranked_as_the_compiled_sampler_ranks_them(sampler: dict[str, Any]) -> None:
    from actors.engines.exllamav2.cut import choose, cut_of
    from actors.engines.exllamav2.sampling import most_likely

    params = sampling_params(**sampler)
    cut = cut_of(params)
    assert cut is not None
    generator = torch.Generator("cuda").manual_seed(1)
    logits = torch.randint(0, 3, (ROWS, 64), generator=generator, device="cuda").half()
    draws = np.random.default_rng(1).random(ROWS).tolist()
    tokens, certain = choose(most_likely(logits, 64), [cut] * ROWS, draws)
    assert certain.mean() > (0.1 if "top_p" in sampler else 0.8)  # sums of equal ones end at the nucleus' very edge
    for row in np.flatnonzero(certain):
        assert tokens[row] == of_the_library(logits[row], params, draws[row])
