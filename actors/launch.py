"""Starts the actors of a pool on the Ray cluster that this process is connected to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig, PoolConfig
from actors.dispatcher.dispatcher import Dispatcher
from actors.engines.registry import resolve_engine_name
from actors.errors import ConfigurationError
from actors.ray_session import NAMESPACE, require_resources, worker_name
from actors.worker.worker import Worker

GPU_ENGINES = frozenset({"exllamav2"})


@dataclass(frozen=True, slots=True)
class Launched:
    """The actors of a pool; `kill` ends their processes at once."""

    dispatcher: Any
    workers: tuple[Any, ...]

    def kill(self) -> None:
        for actor in (self.dispatcher, *self.workers):
            ray.kill(actor)


def launch(config: PoolConfig) -> Launched:
    """Create the dispatcher and the workers, and return while they load.

    :raises ConfigurationError: the name is taken, or the cluster cannot hold the workers.
    :raises ModelError: the model directory is unusable.
    """
    engine = resolve_engine_name(config)
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if engine in GPU_ENGINES else 0.0
    require_resources(cpus=config.workers * config.cpus_per_worker, gpus=config.workers * gpus)
    _require_free_name(config.name)
    lifetime = "detached" if config.detached else None
    engine_config = EngineConfig(**{name: getattr(config, name) for name in EngineConfig.model_fields})
    workers: dict[str, Any] = {
        slot_name: ray.remote(Worker)
        .options(
            num_cpus=config.cpus_per_worker,
            num_gpus=gpus,
            max_restarts=config.max_restarts,
            lifetime=lifetime,
            namespace=NAMESPACE,
            name=worker_name(config.name, slot_name),
        )
        .remote(slot_name, engine_config)
        for slot_name in (f"worker-{index}" for index in range(config.workers))
    }
    model_dir = str(config.model or builtin_model_path())
    options = {"num_cpus": 0, "max_restarts": -1, "lifetime": lifetime, "namespace": NAMESPACE, "name": config.name}
    dispatcher = ray.remote(Dispatcher).options(**options).remote(config, model_dir, tuple(workers))
    return Launched(dispatcher, tuple(workers.values()))


def _require_free_name(name: str) -> None:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return
    raise ConfigurationError(
        f"A pool named {name!r} runs on this cluster already: connect to it, or choose another `name`.", param="name"
    )
