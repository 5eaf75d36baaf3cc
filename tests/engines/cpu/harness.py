"""Running jobs on an engine and checking, on the way, what every engine promises about its events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from actors.builtin_model import builtin_model_path
from actors.engines.base import Emitted, Ended, Engine, EngineJob, Prefilled, Started
from actors.paging.hashes import page_hashes
from actors.results import TokenLogprobs
from actors.sampling import sampling_params

MAX_STEPS = 5000
TOKENIZER = Tokenizer.from_file(str(builtin_model_path() / "tokenizer.json"))
EOS = 2


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text, add_special_tokens=False).ids)


def filler(tokens: int, seed: int = 0) -> tuple[int, ...]:
    """A prompt of exactly so many tokens, without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(300, 2000, (tokens,), generator=generator).tolist())


def job(
    job_id: int, prompt: str | Iterable[int], max_new_tokens: int = 16, *, seed: int = 0, **params: Any
) -> EngineJob:
    """A job, greedy unless `params` say otherwise."""
    token_ids = ids_of(prompt) if isinstance(prompt, str) else tuple(prompt)
    return EngineJob(
        job_id=job_id,
        token_ids=token_ids,
        page_hashes=page_hashes(token_ids),
        max_new_tokens=max_new_tokens,
        seed=seed,
        params=sampling_params(**({"temperature": 0.0} | params)),
    )


@dataclass
class Outcome:
    """All that an engine told of one job."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    started: bool = False
    prefilled_tokens: int = 0
    cached_tokens: int = 0
    ended: Ended | None = None

    @property
    def end(self) -> Ended:
        assert self.ended is not None
        return self.ended


class Runner:
    """Steps an engine and collects the outcomes of its jobs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.outcomes: dict[int, Outcome] = {}

    def submit(self, *jobs: EngineJob) -> None:
        for one in jobs:
            self.engine.submit(one)
            self.outcomes[one.job_id] = Outcome()

    def step(self) -> None:
        for event in self.engine.step():
            outcome = self.outcomes[event.job_id]
            assert outcome.ended is None, "an event after the end"
            match event:
                case Started():
                    assert not outcome.started
                    outcome.started = True
                case Prefilled():
                    assert outcome.started
                    assert not outcome.token_ids
                    outcome.prefilled_tokens += event.tokens
                    outcome.cached_tokens = event.cached_tokens
                case Emitted():
                    assert outcome.started
                    assert event.text or event.token_ids
                    outcome.text += event.text
                    outcome.token_ids += event.token_ids
                    outcome.logprobs += event.logprobs
                case Ended():
                    outcome.ended = event

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(MAX_STEPS):
            if condition():
                return
            self.step()
        raise AssertionError("the condition never came true")

    def finish(self) -> dict[int, Outcome]:
        self.until(lambda: not self.engine.has_work())
        assert all(outcome.ended is not None for outcome in self.outcomes.values())
        return self.outcomes


def run(engine: Engine, *jobs: EngineJob) -> dict[int, Outcome]:
    runner = Runner(engine)
    runner.submit(*jobs)
    return runner.finish()


def alone(engine: Engine, one: EngineJob) -> Outcome:
    return run(engine, one)[one.job_id]


def reference_tokens(model: Any, prompt: Iterable[int], max_new_tokens: int, **options: Any) -> list[int]:
    """What transformers' own generate makes of one prompt, greedily; without the end token."""
    ids = torch.tensor([list(prompt)])
    settings: Mapping[str, Any] = {"do_sample": False, "max_new_tokens": max_new_tokens, "pad_token_id": 0} | options
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
    made: list[int] = out[0, ids.shape[1] :].tolist()
    return made[:-1] if made and made[-1] == EOS and "eos_token_id" not in options else made


def load_reference(path: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    return loader.from_pretrained(path, dtype=torch.float32, **options).eval()
