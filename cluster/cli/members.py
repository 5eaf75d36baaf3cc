"""`exlpool scale`, `exlpool drain`: the workers of a pool that runs, from a shell beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import ray
import typer
from ray.util import list_named_actors

from actors import PoolConfig, PoolNotFound, WorkerState
from actors.ray_session import NAMESPACE, SLOT_PREFIX, ensure_ray
from actors.script import changes
from cluster.cli.console import errors

_LIFE = r"\.[0-9a-f]{10}-[0-9a-f]{6}"
"""What the name of a served pool has behind that of its model."""

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
    owns_ray = ensure_ray(address or "auto")
    try:
        yield _find(_full_name(name))
    finally:
        if owns_ray:
            ray.shutdown()


def _find(name: str) -> tuple[Any, PoolConfig]:
    try:
        dispatcher: Any = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise PoolNotFound(f"No pool named {name!r} runs on this cluster.") from None
    config: PoolConfig = changes.tell(lambda: dispatcher.config.remote())
    return dispatcher, config


def _full_name(name: str | None) -> str:
    """The name under which the pool that is meant has its dispatcher."""
    from serve_app.config import pool_stem

    taken: set[str] = {
        entry["name"] for entry in list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE
    }
    if name is None:
        pools = {actor.rpartition(".")[0] for actor in taken if actor.rpartition(".")[2].startswith(SLOT_PREFIX)}
    elif name in taken:
        return name
    else:
        served = re.compile(re.escape(pool_stem(name)) + _LIFE)
        pools = {actor for actor in taken if served.fullmatch(actor)}
    if len(pools) == 1:
        return pools.pop()
    if pools:
        raise PoolNotFound(f"Several pools run on this cluster; name one with --pool: {', '.join(sorted(pools))}.")
    raise PoolNotFound("No pool runs on this cluster." if name is None else f"No pool named {name!r} runs here.")


def _print_workers(dispatcher: Any) -> None:
    states: tuple[WorkerState, ...] = changes.tell(lambda: dispatcher.progress.remote(changes.ANY_VERSION))[1]
    for state in states:
        print(f"{state.slot_name}  {state.state}")
