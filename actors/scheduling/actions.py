"""What the scheduler wants done. The dispatcher carries actions out in order."""

from __future__ import annotations

from dataclasses import dataclass

from actors.messages import Grant, Refusal


@dataclass(frozen=True, slots=True)
class Start:
    """Tell the request's front to start this attempt on this worker."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the request's front no: at arrival, or later (a deadline passed in the queue, no worker is left)."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Resync:
    """Ask the worker for a report with `full` set: one of its reports was lost."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask a suspected worker whether it lives."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class StopWorker:
    """A draining worker is empty: stop it."""

    worker_id: str


Action = Start | Refuse | Resync | Probe | StopWorker
