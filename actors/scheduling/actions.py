"""What the scheduler wants done. The dispatcher carries actions out in order.

What is to be told to a front carries its `front_id`, as its `Submitted` gave it.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.messages import Grant, Refusal, Revocation


@dataclass(frozen=True, slots=True)
class Start:
    """Tell the request's front to start this attempt on this worker. It is told again when it asks again."""

    grant: Grant
    front_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the request's front no: at arrival, or later (a deadline passed in the queue, no worker is left)."""

    refusal: Refusal
    front_id: str


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell the request's front that it has lost its place, without having asked for that: its worker is gone or is
    being emptied, or does not know of the attempt, or somebody else has taken the request over. An empty `front_id`
    means all fronts: nobody here knows whose it is."""

    revocation: Revocation
    front_id: str


@dataclass(frozen=True, slots=True)
class Resync:
    """Ask the worker for a report with `full` set: one of its reports was lost, or may have been."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask a worker whether it lives: it should have been heard of by now. Asked again until its next report."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class StopWorker:
    """A draining worker is empty: stop it."""

    worker_id: str


Action = Start | Refuse | Revoke | Resync | Probe | StopWorker
