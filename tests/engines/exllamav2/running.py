"""Jobs, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.engines.base import Emitted, Ended, EngineEvent, EngineJob, Prefilled, Started
from actors.engines.exllamav2.engine import ExLlamaV2Engine
from actors.paging.hashes import page_hashes
from actors.results import TokenLogprobs
from actors.sampling import sampling_params
from tests.engines.exllamav2.standin import VOCAB_SIZE, next_logits

MAX_STEPS = 5000


@dataclass
class Outcome:
    """Everything that the engine said about one job."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    started: int = 0
    prefilled: list[Prefilled] = field(default_factory=list)
    ended: Ended | None = None
    first_step: int | None = None

    @property
    def end(self) -> Ended:
        assert self.ended is not None, "the job has not ended"
        return self.ended


def job(job_id: int, token_ids: Sequence[int], max_new_tokens: int = 20, *, seed: int = 0, **params: Any) -> EngineJob:
    return EngineJob(
        job_id=job_id,
        token_ids=tuple(token_ids),
        page_hashes=page_hashes(token_ids),
        max_new_tokens=max_new_tokens,
        seed=seed,
        params=sampling_params(**params),
    )


def greedy(job_id: int, token_ids: Sequence[int], max_new_tokens: int = 20, **params: Any) -> EngineJob:
    return job(job_id, token_ids, max_new_tokens, **{"temperature": 0.0, "ignore_eos": True, **params})


def run(engine: ExLlamaV2Engine, jobs: Iterable[EngineJob] = (), *, steps: int = MAX_STEPS) -> dict[int, Outcome]:
    """Submit jobs and step until nothing is left to do, or `steps` times."""
    outcomes = {}
    for each in jobs:
        engine.submit(each)
        outcomes[each.job_id] = Outcome()
    for step in range(steps):
        if not engine.has_work():
            return outcomes
        note(outcomes, engine.step(), step)
    assert steps < MAX_STEPS, "the engine does not come to an end"
    return outcomes


def note(outcomes: dict[int, Outcome], events: Iterable[EngineEvent], step: int = 0) -> None:
    for event in events:
        outcome = outcomes.setdefault(event.job_id, Outcome())
        assert outcome.ended is None, "an event after the end"
        match event:
            case Started():
                outcome.started += 1
            case Prefilled():
                outcome.prefilled.append(event)
            case Emitted():
                outcome.text += event.text
                outcome.token_ids += event.token_ids
                outcome.logprobs += event.logprobs
                outcome.first_step = step if outcome.first_step is None else outcome.first_step
            case Ended():
                outcome.ended = event


def reference(token_ids: Sequence[int], count: int) -> list[int]:
    """The greedy continuation, computed without the engine."""
    ids = list(token_ids)
    for _ in range(count):
        ids.append(int(next_logits(ids).float().argmax()))
    return ids[len(token_ids) :]


def prompt(length: int, seed: int = 0) -> list[int]:
    """Random ids, none of them special."""
    return [int(token_id) for token_id in np.random.default_rng(seed).integers(3, VOCAB_SIZE, length)]
