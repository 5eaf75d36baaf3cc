"""What transformers, and the meaning of the sampling parameters, say about one greedy job of the CPU engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.engines.base import EngineJob
from actors.results import FinishReason
from tests.engines.cpu.harness import EOS, Outcome

TIE = 1e-4
"""Two tokens whose logits differ by less are equally right."""
Logits = NDArray[np.float64]


def check_job(reference: Any, job: EngineJob, outcome: Outcome) -> None:
    """Each token must be the best one behind those before it, and the end must be where it is due.

    One forward over prompt and completion gives the logits of every step, so this is the same as generating anew, but
    for ties, behind which the completion is followed whichever way it went.
    """
    made = list(outcome.token_ids)
    ended_by = outcome.end.stop_token_id
    steps = [*made, ended_by] if ended_by is not None else made
    if outcome.end.reason is FinishReason.CANCELLED:  # what was withheld then, inside a character, is not told
        assert outcome.end.completion_tokens >= len(steps)
    else:
        assert outcome.end.completion_tokens == len(steps), f"job {job.job_id} counts {outcome.end.completion_tokens}"
    stops = set(job.params.stop_token_ids) | (set() if job.params.ignore_eos else {EOS})
    with torch.inference_mode():
        ids = torch.tensor([[*job.token_ids, *made]])
        logits = reference(ids, use_cache=False).logits[0].double().numpy()
    for place, token_id in enumerate(steps):
        adjusted = adjust(logits[len(job.token_ids) - 1 + place].copy(), job, made[:place], stops)
        short = adjusted.max() - adjusted[token_id]
        assert short < TIE * max(1.0, abs(adjusted.max())), (
            f"job {job.job_id}: token {place} is {token_id} and should be {adjusted.argmax()}, by {short:.3g}"
        )
    if outcome.end.reason is FinishReason.CANCELLED:
        return
    assert not stops & set(made), f"job {job.job_id} went on behind its end"
    if outcome.end.reason is FinishReason.STOP:
        assert ended_by in stops
    else:
        assert (outcome.end.reason, len(made)) == (FinishReason.LENGTH, job.max_new_tokens)


def adjust(logits: Logits, job: EngineJob, made: Sequence[int], stops: set[int]) -> Logits:
    """The logits of the next token as the job's parameters change them."""
    params, span = job.params, job.params.repetition_range
    for token_id, bias in params.logit_bias.items():
        logits[token_id] = -math.inf if bias <= -100.0 else logits[token_id] + bias
    for token_id in set(last([*job.token_ids, *made], span)) if params.repetition_penalty != 1.0 else ():
        value = logits[token_id]
        logits[token_id] = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
    completion = last(made, span)
    for token_id in set(completion):
        logits[token_id] -= params.presence_penalty + params.frequency_penalty * completion.count(token_id)
    if len(made) < params.min_new_tokens:
        logits[list(stops)] = -math.inf
    return logits


def last(token_ids: Sequence[int], span: int) -> list[int]:
    return list(token_ids) if span < 0 else list(token_ids[len(token_ids) - min(span, len(token_ids)) :])


def check_generated(reference: Any, prompt: Sequence[int], found: Sequence[int]) -> None:
    """The same beside transformers' own `generate`, with its own cache, for a plain job that ends at its length."""
    ids = torch.tensor([list(prompt)])
    with torch.inference_mode():
        made = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=len(found),
            min_new_tokens=len(found),
            eos_token_id=None,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    expected = made.sequences[0, len(prompt) :].tolist()
    for place, (token_id, other) in enumerate(zip(found, expected, strict=True)):
        if token_id != other:
            short = float(made.logits[place][0, other] - made.logits[place][0, token_id])
            assert short < TIE * 10, f"token {place} is {token_id} and should be {other}, by {short:.3g}"
            return
