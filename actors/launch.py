"""Starts the actors of a pool on the Ray cluster that this process is connected to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.builtin_model import builtin_model_path
from actors.cluster_room import PLACED, on_head, require_room
from actors.config import PoolConfig
from actors.dispatcher.dispatcher import Dispatcher
from actors.engine_choice import decide_engine
from actors.errors import ConfigurationError, PoolNotFound
from actors.ray_session import NAMESPACE, SLOT_PREFIX, own_node_id
from actors.worker_starter import WorkerStarter, claim_of_worker, kill_actors


@dataclass(frozen=True, slots=True)
class Launched:
    """The actors of a pool; `kill` ends their processes at once.

    Unless the pool is detached, whoever launched it runs `starter.follow_orders(dispatcher)` for as long as it lives.
    """

    dispatcher: Any
    starter: WorkerStarter

    @property
    def workers(self) -> tuple[Any, ...]:
        return self.starter.workers

    def kill(self) -> None:
        self.starter.close()
        kill_actors([self.dispatcher])  # first, since that of a detached pool starts workers itself
        self.starter.kill()


def launch(config: PoolConfig) -> Launched:
    """Create the dispatcher and the workers, and return while they load.

    :raises ConfigurationError: the name is taken, or the cluster cannot hold the workers and will not.
    :raises ModelError: no node has a model directory that could be used, as far as that is looked at before the start.
    """
    config = decide_engine(config)
    claim = claim_of_worker(config)
    require_room(config.workers, claim, wait=config.wait)
    _require_free_name(config.name)
    lifetime = "detached" if config.detached else None
    model_dir = str(config.model or builtin_model_path())
    starter = WorkerStarter(config.name, lifetime)
    slot_names = tuple(f"{SLOT_PREFIX}{index}" for index in range(config.workers))
    try:
        starter.start(dict.fromkeys(slot_names, config))
        options = {**PLACED, "max_restarts": -1, "scheduling_strategy": _dispatcher_place(config)}
        dispatcher = (
            ray.remote(Dispatcher)
            .options(name=config.name, namespace=NAMESPACE, lifetime=lifetime, **options)
            .remote(config, model_dir, slot_names, claim, starter if config.detached else None)
        )
    except BaseException:
        starter.kill()
        raise
    return Launched(dispatcher, starter)


def _dispatcher_place(config: PoolConfig) -> Any:
    """A script's pool ends with the script, so its dispatcher is best where nothing but the script's own node can take
    it away. One that is meant to stay is best on the head, which the cluster cannot do without. Where that is not
    there, or dies, Ray takes another node."""
    head = config.dispatcher_node == "head" or (config.dispatcher_node == "auto" and config.detached)
    return on_head() if head else NodeAffinitySchedulingStrategy(own_node_id(), soft=True)


def find_members(name: str) -> Launched:
    """The actors of a running pool, by their names, in whatever state they are: loading, lost, hanging.

    :raises PoolNotFound: there is no dispatcher of this name.
    """
    try:
        dispatcher = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise PoolNotFound(f"No pool named {name!r} runs on this cluster.") from None
    starter = WorkerStarter(name, None)
    starter.find_all()
    return Launched(dispatcher, starter)


def _require_free_name(name: str) -> None:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    raise ConfigurationError(
        f"A pool named {name!r} runs on this cluster already: connect to it, or choose another `name`.", param="name"
    )
