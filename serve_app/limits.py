"""Bounds on one request that the API itself enforces; bodies and headers are bounded before it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """`max_choices` bounds the completions that one request may ask for: prompts times `n`."""

    max_choices: int = 128
    default_timeout_s: float | None = None
    """Bound on the whole life of a request that names none; None: none."""
