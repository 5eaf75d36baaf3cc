"""An engine, and what it answers if it is left alone: what `test_same_answers` measures every request by."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import torch

import tests.engines.exllamav2.standin  # noqa: F401 - before anything that imports exllamav2
from actors.engines.base import Emitted, Engine
from actors.messages import WorkerLimits
from tests.engines.cpu.harness import Outcome, job, run
from tests.engines.exllamav2.standin import StandInModel
from tests.fuzzing.exllamav2_reference import scripted_logits

PLAIN_TOKENS = 30
LETTERS = range(259, 512)
"""The stand-in's tokens of two letters each."""


class LettersModel(StandInModel):
    """The stand-in, saying letters alone."""

    def logits_behind(self, token_ids: Any) -> torch.Tensor:
        return torch.from_numpy(scripted_logits(token_ids, LETTERS) / 8).half()


@dataclass
class Bench:
    """An engine, a prompt, and what it answers if it is left alone."""

    engine: Engine
    limits: WorkerLimits
    prompt: tuple[int, ...]
    tokens: list[int] = field(init=False)
    texts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens, self.texts = [], []
        self.engine.submit(job(0, self.prompt, PLAIN_TOKENS, ignore_eos=True))
        while self.engine.has_work():
            for event in self.engine.step():
                if isinstance(event, Emitted):
                    self.tokens += event.token_ids
                    self.texts.append(event.text)
        assert len(self.texts) == len(self.tokens) == PLAIN_TOKENS

    def answer(self, max_new_tokens: int, **params: Any) -> Outcome:
        """What it answers to one request, behind its own prompt and greedy unless `params` say otherwise."""
        prompt = params.pop("prompt", self.prompt)
        missing = params.keys() - self.limits.supported_parameters
        if missing:
            pytest.skip(f"refused by name here: {', '.join(missing)}")
        outcome = run(self.engine, job(0, prompt, max_new_tokens, **params))[0]
        assert self.engine.capacity().free_pages == self.limits.total_pages, "pages were not given back"
        return outcome

    def spelled(self, count: int) -> str:
        return "".join(self.texts[:count])

    @cached_property
    def new(self) -> int:
        """A place whose token, and whose text behind the text before it, come for the first time; 1 is the first."""
        for count in range(6, PLAIN_TOKENS - 4):
            pair = "".join(self.texts[count - 2 : count])
            if self.tokens[count - 1] not in self.tokens[: count - 1] and self.spelled(count).find(pair) == len(
                self.spelled(count - 2)
            ):
                return count
        raise AssertionError("the answer repeats itself")

    @property
    def pair(self) -> str:
        """The text of the tokens `new` - 1 and `new`: the token `new` is the first to complete it."""
        return "".join(self.texts[self.new - 2 : self.new])
