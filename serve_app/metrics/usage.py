"""Usage of a request: every prompt counts once, every completion counts."""

from __future__ import annotations

from collections.abc import Sequence

from actors.results import Usage


class UsageSum:
    """Choices are numbered through all prompts: `n` of them belong to each, in order.

    Until a choice has ended, its usage is what has been streamed of it.
    """

    def __init__(self, n: int, prompt_tokens: Sequence[int] = ()) -> None:
        """`prompt_tokens` are those of every choice."""
        self._n = n
        self._usages = [Usage(tokens, 0) for tokens in prompt_tokens]
        self._streamed = [0] * len(prompt_tokens)

    def stream(self, choice: int, tokens: int) -> None:
        """So many more tokens of a choice."""
        self._streamed[choice] += tokens

    def end(self, choice: int, usage: Usage) -> None:
        self._usages[choice] = usage
        self._streamed[choice] = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(usage.prompt_tokens for usage in self._usages[:: self._n])

    @property
    def cached_tokens(self) -> int:
        """Of the first choice of each prompt: the others find there what the first has just computed."""
        return sum(usage.cached_tokens for usage in self._usages[:: self._n])

    @property
    def completion_tokens(self) -> int:
        return sum(usage.completion_tokens for usage in self._usages) + sum(self._streamed)
