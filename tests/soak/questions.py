"""Requests whose answers are known beforehand."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from actors import FinishReason
from actors.engines.simulated import expected_tokens
from actors.request.prompt import Prompt, PromptEncoder
from tests.soak.plan import CONTEXT_TOKENS

FAMILIES, FAMILY_TOKENS = 8, 600
"""Prompts share beginnings of two full pages and a bit, as conversations do."""
VOCABULARY = tuple(range(4, 2048))
"""The same few thousand objects in all prompts: an id of its own for each token of the long ones would make so much
garbage that the memory of this process said nothing of the fronts in it."""
CLASSES = ("interactive", "default", "batch")
TENANTS = ("", "alice", "bob")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and what has to come back. `refusal` is the code of the error that a wrong request gets; the
    others get `text`, and `token_ids` where these are known to the last (a stop string ends inside a token)."""

    prompt: Prompt
    options: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    token_ids: tuple[int, ...] = ()
    text: str = ""
    reason: FinishReason = FinishReason.LENGTH
    refusal: str | None = None

    @property
    def timeout_s(self) -> float | None:
        timeout_s: float | None = self.options.get("timeout_s")
        return timeout_s


class QuestionMaker:
    """Makes questions at random. Of those of one user, the same seed makes the same."""

    def __init__(self, rng: random.Random, encoder: PromptEncoder) -> None:
        self._rng = rng
        self._encoder = encoder

    def prompts(self, count: int) -> list[Prompt]:
        """Prompts alone, for who asks the same of all."""
        return [self._prompt() for _ in range(count)]

    def right(self, *, timeout_s: float | None = None, short: bool = False) -> Question:
        """One that can be answered."""
        rng = self._rng
        prompt = self._prompt()
        ids = self._encoder.encode(prompt)
        count = rng.randint(1, 12) if short else min(1 + int(rng.expovariate(1 / 50)), 400)
        seed = rng.choice((None, rng.randrange(2**31)))
        sampling = {"temperature": 0.0} if seed is None else {"temperature": 1.0, "seed": seed}
        token_ids, reason = expected_tokens(ids, count, seed), FinishReason.LENGTH
        text = "".join(f" w{token}" for token in token_ids)
        options: dict[str, Any] = {"max_new_tokens": count, "priority": rng.choice(CLASSES), **sampling}
        options["tenant"] = rng.choice(TENANTS)
        if timeout_s is not None:
            options["timeout_s"] = timeout_s
        if rng.random() < 0.15:
            stop = f" w{rng.choice(token_ids)}"
            options["stop"], text, reason = [stop], text.partition(stop)[0], FinishReason.STOP
        return Question(
            prompt=prompt, options=options, prompt_tokens=len(ids), token_ids=token_ids, text=text, reason=reason
        )

    def greedy(self, prompt: Prompt, count: int) -> Question:
        """What becomes of a prompt without any choice."""
        ids = self._encoder.encode(prompt)
        token_ids = expected_tokens(ids, count)
        text = "".join(f" w{token}" for token in token_ids)
        return Question(prompt=prompt, prompt_tokens=len(ids), token_ids=token_ids, text=text)

    def wrong(self) -> Question:
        """One that has to be refused."""
        rng = self._rng
        ids = tuple(rng.choices(VOCABULARY, k=20))
        return rng.choice(
            (
                Question(prompt=(), refusal="invalid_request"),
                Question(prompt="", refusal="invalid_request"),
                Question(prompt=(*ids, 10**6), refusal="invalid_request"),
                Question(prompt=ids, options={"temperature": -1.0}, refusal="invalid_request"),
                Question(prompt=ids, options={"max_new_tokens": 0}, refusal="invalid_request"),
                Question(prompt=ids, options={"top_k": 5}, refusal="unsupported_parameter"),
                Question(prompt=ids, options={"max_new_tokens": CONTEXT_TOKENS}, refusal="context_length_exceeded"),
                Question(prompt=ids * (CONTEXT_TOKENS // 20), refusal="context_length_exceeded"),
            )
        )

    def _prompt(self) -> Prompt:
        """Mostly token ids, a few of them so many that the submission is a large message; sometimes a text."""
        rng, kind = self._rng, self._rng.random()
        if kind < 0.2:
            return " ".join(rng.choices(("once", "upon", "a", "time", "there", "was"), k=rng.randint(1, 200)))
        if kind < 0.22:
            return tuple(rng.choices(VOCABULARY, k=rng.randint(15_000, 30_000)))
        family = random.Random(rng.randrange(FAMILIES)).choices(VOCABULARY, k=FAMILY_TOKENS)
        return tuple(family + rng.choices(VOCABULARY, k=rng.randint(1, 400)))
