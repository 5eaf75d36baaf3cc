"""What a person sees while workers load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from actors import WorkerState
from cluster.cli.console import SHOWN_WORKERS, Loading
from tests.script.test_starting import LOST, STARTING, UP, WAITING


class Status:
    text = ""

    def update(self, text: str) -> None:
        self.text = text


def shown(*states: WorkerState) -> list[str]:
    status = Status()
    Loading(cast(Any, status))(states)
    return status.text.splitlines()


def test_every_worker_that_is_not_ready_is_shown_with_what_it_is_at() -> None:
    loading = replace(STARTING, slot_name="worker-2", node="10.0.0.2", loading=("weights", 3, 40))
    assert shown(UP, STARTING, loading, replace(WAITING, slot_name="worker-3"), LOST) == [
        "Starting workers: 1 of 5 ready",
        "  worker-0 starts",
        "  worker-2 on 10.0.0.2: weights 3/40",
        "  worker-3 waits for a node with 1 GPU: the cluster has 0 GPUs",
        "  worker-0 is lost: It does not fit.",
    ]


def test_of_many_only_some_are_shown() -> None:
    lines = shown(*(STARTING,) * (SHOWN_WORKERS + 5))
    assert len(lines) == SHOWN_WORKERS + 2
    assert lines[-1] == "  and 5 more"
