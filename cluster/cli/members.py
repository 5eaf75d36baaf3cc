"""`exlpool scale`, `exlpool drain`: the workers of a pool that runs, from a shell beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import ray
import typer

from actors import PoolConfig, WorkerState
from actors.ray_session import ensure_ray
from actors.script import changes
from actors.script.finding import find_pool
from cluster.cli.console import errors

Address = Annotated[
    str | None, typer.Option(help="Ray cluster that the pool runs on; none: RAY_ADDRESS, else the one on this machine.")
]
PoolName = Annotated[
    str | None, typer.Option("--pool", help="Name of the pool, or of a served model; none: the only one that runs.")
]
Grace = Annotated[
    float, typer.Option(min=0.0, help="Time for what runs on a worker that leaves to end there; then it moves.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done, or at once.")]


def scale(
    workers: Annotated[int, typer.Argument(min=0, help="Workers that the pool has from now on.")],
    *,
    pool: PoolName = None,
    grace_s: Grace = changes.GRACE_S,
    wait: Wait = True,
    address: Address = None,
) -> None:
    """Give a running pool more workers, or fewer; no request fails."""
    with _running_pool(pool, address) as (dispatcher, config):
        with errors.status(f"Scaling to {workers} workers"):
            changes.scale(dispatcher, config, workers, grace_s, wait=wait)
        _print_workers(dispatcher)


def drain(
    worker: Annotated[str, typer.Argument(help="The worker's name, such as worker-0.")],
    *,
    pool: PoolName = None,
    grace_s: Grace = changes.GRACE_S,
    restart: Annotated[bool, typer.Option("--restart", help="Start a new worker in its place.")] = False,
    wait: Wait = True,
    address: Address = None,
) -> None:
    """Take a worker out of a running pool; no request fails."""
    with _running_pool(pool, address) as (dispatcher, config):
        with errors.status(f"Draining {worker}"):
            changes.drain(dispatcher, config, worker, grace_s, restart=restart, wait=wait)
        _print_workers(dispatcher)


def register(app: typer.Typer) -> None:
    app.command()(scale)
    app.command()(drain)


@contextmanager
def _running_pool(name: str | None, address: str | None) -> Iterator[tuple[Any, PoolConfig]]:
    """The dispatcher and the configuration of a pool, while this process is connected to its cluster.

    :raises PoolNotFound: there is none, or there are several that may be meant.
    """
    from cluster.own_cluster import address_of_running

    owns_ray = ensure_ray(address_of_running(address), quiet=True)
    try:
        yield find_pool(name)
    finally:
        if owns_ray:
            ray.shutdown()


def _print_workers(dispatcher: Any) -> None:
    states: tuple[WorkerState, ...] = changes.tell(lambda: dispatcher.progress.remote(changes.ANY_VERSION))[1]
    for state in states:
        print(f"{state.slot_name}  {state.state}")
