"""A running pool is found by its name, or by that of the model that it serves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError

from actors.config import PoolConfig
from actors.dispatcher.statistics import WorkerState
from actors.errors import PoolNotFound
from actors.pool_names import model_of_pool, pools_meant, running_pools
from actors.ray_session import NAMESPACE

ANSWER_S = 15.0
RETRY_S = 0.2
ANY_VERSION = -1


def find_pool(name: str | None) -> tuple[Any, PoolConfig]:
    """The dispatcher and the configuration of the pool that is meant; None: of the only one that runs.

    While a served model has two pools, an old one and one that takes its place, it is the newest one that can generate,
    or else the newest.

    :raises PoolNotFound: there is none, or there are several that may be meant; it says which there are.
    """
    pools = running_pools()
    if name is None:
        name = _only_one(pools)
    loading: tuple[Any, PoolConfig] | None = None
    meant = pools_meant(name, pools)
    for pool in meant:
        found = _ask(pool)
        if found is None:
            continue
        dispatcher, config, ready = found
        if ready or len(meant) == 1:
            return dispatcher, config
        loading = loading or (dispatcher, config)
    if loading is None and meant:
        raise PoolNotFound(f"The pool {name!r} does not answer: it ends, or its node is down.")
    if loading is None:
        raise PoolNotFound(f"No pool named {name!r} runs on this cluster{_told(pools)}")
    return loading


def _only_one(pools: Sequence[str]) -> str:
    names = {model_of_pool(pool) for pool in pools}
    if len(names) > 1:
        raise PoolNotFound(f"Several pools run on this cluster; name one with --pool: {', '.join(sorted(names))}.")
    if not names:
        raise PoolNotFound("No pool runs on this cluster.")
    return names.pop()


def _ask(pool: str) -> tuple[Any, PoolConfig, bool] | None:
    """A pool's dispatcher, configuration, and whether one of its workers can generate; None: it ends, or hangs."""
    deadline_s = time.monotonic() + ANSWER_S
    while True:
        try:
            dispatcher: Any = ray.get_actor(pool, namespace=NAMESPACE)
            config, (_, states) = ray.get(
                [dispatcher.config.remote(), dispatcher.progress.remote(ANY_VERSION)], timeout=ANSWER_S
            )
        except ActorUnavailableError:  # it restarts
            if time.monotonic() > deadline_s:
                return None
            time.sleep(RETRY_S)  # a poll, bounded by the deadline above
        except (ValueError, RayActorError, GetTimeoutError):
            return None
        else:
            return dispatcher, config, any(_can_generate(state) for state in states)


def _can_generate(state: WorkerState) -> bool:
    return state.worker_id is not None


def _told(pools: Sequence[str]) -> str:
    names = sorted({model_of_pool(pool) for pool in pools})
    return f"; there are: {', '.join(names)}." if names else ", nor any other one; start one with Pool.start."
