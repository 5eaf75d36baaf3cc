"""What the model says in float32 on the CPU, and how far a GPU in fp16 has to agree with it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.base import EngineJob
from actors.engines.cpu import CpuEngine
from actors.paging.hashes import page_hashes
from actors.sampling import sampling_params
from tests.engines.cpu.harness import Outcome, ids_of, run

FP16_MARGIN = 0.2
"""Where the two most likely logits are closer than this, rounding may decide; the comparison ends there."""
STORIES = (
    "Once upon a time,",
    "Once upon a time, there was a brave girl named Zoe.",
    "One sunny day, Lily took her red ball to the park.",
    "Once upon a time, there was a little boy named Max. Max loved to",
)
QUESTIONS = (
    "What is 2+3?",
    "What is the capital of France?",
    "Hello!",
    "Count from 1 to 10.",
    "Reply in JSON with name and age",
    "Max is 5 years old. Reply in JSON with name and age.",
    "Tell me a story about a fox.",
    "Tell me a story.",
)


@cache
def prompts() -> tuple[tuple[int, ...], ...]:
    """Sixteen prompts that the model knows what to say to, some of them longer than a page."""
    asked = [(1, 4, *ids_of(question), 2, 5) for question in QUESTIONS]
    told = [(1, *ids_of(story)) for story in STORIES]
    turns = [turn for question in asked for turn in question[1:]]
    long = [(1, *(turns * repeats), *asked[number][1:]) for number, repeats in enumerate((3, 6, 7, 12))]
    return (*asked, *told, *long)


def greedy_job(job_id: int, token_ids: Sequence[int], max_new_tokens: int = 64, **params: Any) -> EngineJob:
    return EngineJob(
        job_id=job_id,
        token_ids=tuple(token_ids),
        page_hashes=page_hashes(token_ids),
        max_new_tokens=max_new_tokens,
        seed=0,
        params=sampling_params(**{"temperature": 0.0, "ignore_eos": True} | params),
    )


@cache
def cpu_outcomes(max_new_tokens: int = 64) -> tuple[Outcome, ...]:
    """Of the CPU engine, for each of `prompts()`, with the two most likely tokens of each place."""
    torch.set_num_threads(4)
    engine = CpuEngine(EngineConfig(model=builtin_model_path(), engine="cpu", cache_tokens=64 * 1024))
    engine.load(lambda _: None)
    jobs = [greedy_job(number, ids, max_new_tokens, logprobs=5) for number, ids in enumerate(prompts())]
    outcomes = run(engine, *jobs)
    engine.close()
    return tuple(outcomes[number] for number in range(len(jobs)))


def sure_tokens(expected: Outcome, margin: float = FP16_MARGIN) -> int:
    """How many tokens come before the first place where two candidates are closer than `margin`."""
    for place, entry in enumerate(expected.logprobs):
        if entry.top[0][1] - entry.top[1][1] < margin:
            return place
    return len(expected.token_ids)


def assert_equal_where_sure(token_ids: Sequence[int], expected: Outcome, margin: float = FP16_MARGIN) -> int:
    """Returns how many tokens could be compared."""
    sure = min(sure_tokens(expected, margin), len(token_ids))
    assert list(token_ids[:sure]) == expected.token_ids[:sure]
    return sure


def agreement(token_ids: Sequence[int], expected: Outcome) -> float:
    """The share of the expected tokens before the first difference."""
    pairs = zip(token_ids, expected.token_ids, strict=False)
    same = next((place for place, (mine, theirs) in enumerate(pairs) if mine != theirs), len(expected.token_ids))
    return same / len(expected.token_ids)
