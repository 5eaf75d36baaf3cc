"""What a user gets back from a pool, and the words for it: frozen dataclasses, nothing with behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Priority(StrEnum):
    """The class of a request; earlier ones are placed first, `batch` fills the gaps."""

    INTERACTIVE = "interactive"
    DEFAULT = "default"
    BATCH = "batch"


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of probabilities of one position, from raw logits (before any sampler).

    `top` lists (token id, logprob), most likely first; it is empty when only the sampled token was asked for.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds of a request's life: waiting in the dispatcher and the worker, prefill, first token, the whole."""

    queue_s: float
    prefill_s: float
    first_token_s: float
    total_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of a completion as it streams. The last one has `finish_reason` and `usage` set.

    The first one has a `timing` of what is known by then, the last one that of the whole.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timing: Timing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """A whole completion: the deltas, joined. `worker_id` made it, at the `attempts`-th placement."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timing: Timing
    worker_id: str
    attempts: int = 1
    seed: int = 0
    logprobs: tuple[TokenLogprobs, ...] = field(default=())
