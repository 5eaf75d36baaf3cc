"""What an endpoint makes of a request: completions to run, and how their text is told. One path for streams and whole
answers: a whole answer is told from one delta per choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.errors import InvalidRequest
from actors.request.options import RequestOptions
from actors.results import Delta
from serve_app.api.generation import Job
from serve_app.api.options import with_own_seed
from serve_app.api.schemas.common import GenerationFields, UsageModel
from serve_app.api.sse import ChunkWriter
from serve_app.config import ApiLimits


class Answer(Protocol):
    """One request that has been checked."""

    jobs: Sequence[Job]
    writer: ChunkWriter

    def opening(self) -> str:
        """The chunks that come before any text."""
        ...

    def chunks(self, choice: int, delta: Delta) -> str:
        """The chunks for a delta; empty when it has nothing to show."""
        ...

    def whole(self, deltas: Sequence[Delta], usage: UsageModel) -> str:
        """The JSON of the answer, from one delta per job, in their order."""
        ...


def check_choices(prompts: int, n: int, limits: ApiLimits) -> None:
    """:raises InvalidRequest: they are more completions than one request may ask for."""
    if prompts * n > limits.max_choices:
        raise InvalidRequest(
            f"One request may ask for {limits.max_choices} completions, not for {prompts * n}.",
            param="n" if n > 1 else "prompt",
        )


def make_jobs(prompts: Sequence[tuple[int, ...]], options: RequestOptions, n: int) -> tuple[Job, ...]:
    """`n` completions of every prompt, numbered through."""
    return tuple(
        Job(number * n + i, token_ids, with_own_seed(options, i))
        for number, token_ids in enumerate(prompts)
        for i in range(n)
    )


def require_consistent_stream(request: GenerationFields) -> None:
    """:raises InvalidRequest: stream_options without a stream."""
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("stream_options needs stream: true.", param="stream_options")
