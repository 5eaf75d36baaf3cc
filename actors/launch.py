"""Starts the actors of a pool on the Ray cluster that this process is connected to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig, PoolConfig
from actors.dispatcher.dispatcher import Dispatcher
from actors.engines.registry import resolve_engine_name
from actors.errors import ConfigurationError, PoolNotFound
from actors.ray_session import NAMESPACE, require_resources, worker_name
from actors.worker.worker import Worker

GPU_ENGINES = frozenset({"exllamav2"})
SLOT_PREFIX = "worker-"


@dataclass(frozen=True, slots=True)
class Launched:
    """The actors of a pool; `kill` ends their processes at once."""

    dispatcher: Any
    workers: tuple[Any, ...]

    def kill(self) -> None:
        kill_actors((self.dispatcher, *self.workers))


def launch(config: PoolConfig) -> Launched:
    """Create the dispatcher and the workers, and return while they load.

    :raises ConfigurationError: the name is taken, or the cluster cannot hold the workers.
    :raises ModelError: the model directory is unusable.
    """
    resolve_engine_name(config)
    cpus, gpus = needed_resources(config)
    require_resources(cpus=config.workers * cpus, gpus=config.workers * gpus)
    _require_free_name(config.name)
    lifetime = "detached" if config.detached else None
    engine_config = EngineConfig(**{name: getattr(config, name) for name in EngineConfig.model_fields})
    model_dir = str(config.model or builtin_model_path())
    workers: dict[str, Any] = {}
    try:
        for slot_name in (f"{SLOT_PREFIX}{index}" for index in range(config.workers)):
            options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": config.max_restarts}
            workers[slot_name] = (
                ray.remote(Worker)
                .options(name=worker_name(config.name, slot_name), namespace=NAMESPACE, lifetime=lifetime, **options)
                .remote(slot_name, engine_config)
            )
        options = {"num_cpus": 0, "max_restarts": -1}
        dispatcher = (
            ray.remote(Dispatcher)
            .options(name=config.name, namespace=NAMESPACE, lifetime=lifetime, **options)
            .remote(config, model_dir, tuple(workers))
        )
    except BaseException:
        kill_actors(workers.values())
        raise
    return Launched(dispatcher, tuple(workers.values()))


def needed_resources(config: PoolConfig) -> tuple[float, float]:
    """CPUs and GPUs that each worker claims from Ray.

    :raises ModelError: the model directory is unusable.
    """
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if resolve_engine_name(config) in GPU_ENGINES else 0.0
    return config.cpus_per_worker, gpus


def kill_actors(actors: Iterable[Any]) -> None:
    """End every one of them, whatever becomes of the others."""
    for actor in actors:
        with suppress(RayError, ValueError):  # it is gone already, or so is the cluster
            ray.kill(actor)


def find_members(name: str) -> Launched:
    """The actors of a running pool, by their names, in whatever state they are: loading, lost, hanging.

    :raises PoolNotFound: there is no dispatcher of this name.
    """
    try:
        dispatcher = ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        raise PoolNotFound(f"No pool named {name!r} runs on this cluster.") from None
    workers = []
    for entry in list_named_actors(all_namespaces=True):
        pool, _, slot_name = entry["name"].rpartition(".")
        if entry["namespace"] == NAMESPACE and pool == name and slot_name.startswith(SLOT_PREFIX):
            with suppress(ValueError):  # it ended meanwhile
                workers.append(ray.get_actor(entry["name"], namespace=NAMESPACE))
    return Launched(dispatcher, tuple(workers))


def _require_free_name(name: str) -> None:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    raise ConfigurationError(
        f"A pool named {name!r} runs on this cluster already: connect to it, or choose another `name`.", param="name"
    )
