"""What has come back of a request, and when."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Said:
    """All of an answer that must be the same in every run. `tokens` are ids or texts, one for each that was shown."""

    texts: tuple[str, ...]
    tokens: tuple[tuple[str, ...], ...]
    reasons: tuple[str | None, ...]
    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Answer:
    """What has come of one request so far, and how it ended."""

    n: int = 1
    started_s: float = field(default_factory=time.monotonic)
    ended_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list)
    texts: list[str] = field(init=False)
    tokens: list[list[str]] = field(init=False)
    reasons: list[str | None] = field(init=False)
    usage: tuple[int, int] | None = None
    error: BaseException | None = None
    comments: int = 0
    refusals: int = 0
    """How often it was told to come back later, and did."""
    cut_off: int = 0
    """How often its replica was killed and it was asked again."""

    def __post_init__(self) -> None:
        self.begin_again()

    def begin_again(self) -> None:
        """Forget what has come: it is asked from the beginning."""
        self.arrivals_s = []
        self.texts = [""] * self.n
        self.tokens = [[] for _ in range(self.n)]
        self.reasons = [None] * self.n
        self.usage = None

    def take(self, choice: int, text: str, tokens: list[str], reason: str | None) -> None:
        """A delta has come."""
        self.arrivals_s.append(time.monotonic())
        self.texts[choice] += text
        self.tokens[choice] += tokens
        if reason is not None:
            self.reasons[choice] = reason

    def said(self) -> Said:
        prompt_tokens, completion_tokens = self.usage or (0, 0)
        tokens = tuple(tuple(tokens) for tokens in self.tokens)
        return Said(tuple(self.texts), tokens, tuple(self.reasons), prompt_tokens, completion_tokens)
