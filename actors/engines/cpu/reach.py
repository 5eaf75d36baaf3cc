"""How far back a model's attention reaches, as its configuration limits it: windows, chunks, the best so many of a
sequence. Such a limit shows in sequences that are longer than it, so that a check of a few tokens would not see it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_NAMES = re.compile(r"window|chunk|local|block_size|index_topk")
_OTHER_NAMES = re.compile(r"layer|feed_forward|pattern|experts|mamba|conv|num_")
"""Such names count or describe something else than tokens: `max_window_layers`, `chunk_size_feed_forward`."""


@dataclass(frozen=True, slots=True)
class ReachLimit:
    """A setting of `holder`, which is a module of a model or a configuration, that says how many tokens are seen."""

    holder: Any
    name: str
    tokens: int


def reach_limits(model: Any, above_tokens: int, below_tokens: int) -> list[ReachLimit]:
    """The settings that may limit attention to a number of tokens between the two."""
    holders = [*model.modules()]
    configs = {id(config): config for holder in holders if (config := getattr(holder, "config", None)) is not None}
    for config in list(configs.values()):
        for text_config in (getattr(config, "text_config", None), getattr(config, "decoder", None)):
            if hasattr(text_config, "__dict__"):
                configs[id(text_config)] = text_config
    return [
        ReachLimit(holder, name, value)
        for holder in (*holders, *configs.values())
        for name, value in vars(holder).items()
        if type(value) is int
        and above_tokens < value < below_tokens
        and _NAMES.search(name)
        and not _OTHER_NAMES.search(name)
    ]


@contextmanager
def shortened(limits: Sequence[ReachLimit], tokens: int) -> Iterator[None]:
    """Let all of them be `tokens` for a while."""
    try:
        for limit in limits:
            setattr(limit.holder, limit.name, tokens)
        yield
    finally:
        for limit in limits:
            setattr(limit.holder, limit.name, limit.tokens)
