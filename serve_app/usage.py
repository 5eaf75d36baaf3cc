"""Usage of a request: every prompt counts once, every completion counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.messages import Usage
from serve_app.schemas.common import PromptTokensDetails, UsageModel


@dataclass(slots=True)
class UsageSum:
    """Choices are numbered through all prompts: `n` of them belong to each, in order."""

    n: int
    by_choice: dict[int, Usage] = field(default_factory=dict)

    def add(self, choice: int, usage: Usage) -> None:
        self.by_choice[choice] = usage

    @property
    def prompt_tokens(self) -> int:
        return sum(usage.prompt_tokens for usage in self._firsts().values())

    @property
    def cached_tokens(self) -> int:
        """Of the first choice of each prompt: the others find there what the first has just computed."""
        return sum(usage.cached_tokens for usage in self._firsts().values())

    @property
    def completion_tokens(self) -> int:
        return sum(usage.completion_tokens for usage in self.by_choice.values())

    def model(self) -> UsageModel:
        return UsageModel(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.cached_tokens),
        )

    def _firsts(self) -> Mapping[int, Usage]:
        return {choice: usage for choice, usage in self.by_choice.items() if choice % self.n == 0}
