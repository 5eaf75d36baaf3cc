"""What an engine's thread is told, and what it tells. Frozen or plain data that pickles, since the thread may live in
a process of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.messages import AttemptFinished, AttemptStarted, GenerationRequest, RunningAttempt, StepSample
from actors.worker.output_columns import OutputColumns


@dataclass(frozen=True, slots=True)
class Submit:
    """Take up an attempt whose output goes to the stream `stream_id`."""

    stream_id: str
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    stream_id: str
    ticket: int


@dataclass(frozen=True, slots=True)
class CancelStream:
    """Cancel all jobs of a stream that has ended."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class Inspect:
    """Have the next news tell the whole truth, whether or not anything happened."""


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Submit | Cancel | CancelStream | Inspect | Stop


@dataclass(frozen=True, slots=True)
class WholeTruth:
    """Everything that the engine holds: resident pages, and the attempts that have not ended."""

    resident_pages: frozenset[bytes]
    running: tuple[RunningAttempt, ...]


@dataclass(slots=True)
class StepNews:
    """What one turn of the engine's thread brought. `outputs` has an entry for each stream that has something to hear.

    `pages_added` and `pages_evicted` are the changes of the resident pages since the last news that told any.
    `truth` is set when it was asked for, and after a failed step. `earlier` are steps that nobody was told of yet;
    `generated_tokens` counts theirs too.
    """

    outputs: dict[str, OutputColumns] = field(default_factory=dict)
    sample: StepSample | None = None
    started: list[AttemptStarted] = field(default_factory=list)
    first_tokens: list[tuple[str, int]] = field(default_factory=list)
    finished: list[AttemptFinished] = field(default_factory=list)
    pages_added: tuple[bytes, ...] = ()
    pages_evicted: tuple[bytes, ...] = ()
    truth: WholeTruth | None = None
    generated_tokens: int = 0
    earlier: list[StepSample] = field(default_factory=list)

    @property
    def urgent(self) -> bool:
        """Something changed that admission or placement depend on."""
        return bool(
            self.started
            or self.first_tokens
            or self.finished
            or self.pages_added
            or self.pages_evicted
            or self.truth is not None
        )

    @property
    def empty(self) -> bool:
        return not (self.outputs or self.sample or self.urgent)
