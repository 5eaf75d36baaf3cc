"""Who starts the workers of a pool, at its beginning and whenever it grows.

An actor that is not detached goes with the process that made it: so the script that owns a pool makes all of its
workers, on the dispatcher's orders. Then they end with their owner, even when it is killed, and live on when the
dispatcher is, which would not be so if the dispatcher had made them. An actor in between would be one process more for
every pool, and take the workers with it when it dies. The workers of a detached pool, such as one that is served, have
no owner, so its dispatcher makes them itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util import list_named_actors

from actors.cluster_room import Claim
from actors.config import EngineConfig, PoolConfig
from actors.errors import first_line
from actors.ray_session import NAMESPACE, SLOT_PREFIX, RaySession, worker_name
from actors.worker.worker import Worker
from actors.worker_places import WorkerPlaces

logger = logging.getLogger(__name__)

GPU_ENGINES = frozenset({"exllamav2"})
RETRY_S = 0.5

Orders = Callable[[frozenset[str]], Awaitable[dict[str, PoolConfig]]]
"""Given the slots whose workers are held, waits until they are not those that the pool should have, and tells these."""


class WorkerStarter:
    """Holds the workers of one pool; `lifetime` is Ray's. Any thread may call it."""

    def __init__(self, pool: str, lifetime: str | None) -> None:
        self._pool = pool
        self._lifetime = lifetime
        self._workers: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerStarter, (self._pool, self._lifetime)

    @property
    def workers(self) -> tuple[Any, ...]:
        return tuple(self._workers.values())

    def start(self, configs: Mapping[str, PoolConfig]) -> None:
        """Have workers made, by their slots' names, and return while they load; after `close` nothing happens."""
        with self._lock:
            if self._closed:
                return
            places = WorkerPlaces()
            for slot_name, config in configs.items():
                self._workers[slot_name] = self._make(slot_name, config, places)

    def _make(self, slot_name: str, config: PoolConfig, places: WorkerPlaces) -> Any:
        engine_config = EngineConfig(**{name: getattr(config, name) for name in EngineConfig.model_fields})
        claim = claim_of_worker(config)
        worker: Any = (
            ray.remote(Worker)
            .options(
                name=worker_name(self._pool, slot_name),
                namespace=NAMESPACE,
                lifetime=self._lifetime,
                num_cpus=claim.cpus,
                num_gpus=claim.gpus,
                label_selector=dict(claim.labels) or None,
                scheduling_strategy=places.choose(config.placement, claim),
                max_restarts=config.max_restarts,
            )
            .remote(slot_name, engine_config)
        )
        worker.start.remote()
        return worker

    def close(self) -> None:
        """Start nothing more. Returns when nothing is being started."""
        with self._lock:
            self._closed = True

    def kill(self) -> None:
        """End all workers at once."""
        self.close()
        kill_actors(self._workers.values())

    async def follow_orders(self, dispatcher: Any) -> None:
        """Hold the workers that the dispatcher wants, through its restarts, until it is gone for good."""
        session = RaySession()

        async def ask(held: frozenset[str]) -> dict[str, PoolConfig]:
            orders: dict[str, PoolConfig] = await session.call(dispatcher.orders, held)
            return orders

        with suppress(ActorDiedError):
            await self.follow(ask)

    async def follow(self, ask: Orders) -> None:
        """:raises ActorDiedError: nobody will ever give orders again."""
        while not self._closed:
            try:
                await asyncio.to_thread(self._carry_out, await ask(frozenset(self._workers)))
            except ActorDiedError:
                raise
            except (RayError, ValueError) as error:  # it is being restarted, or a name is not free yet
                logger.warning("Workers of %s could not be started now: %s", self._pool, first_line(error))
                await asyncio.sleep(RETRY_S)

    def find_all(self) -> None:
        """Hold the workers that were started before, by another process or an earlier life of this one."""
        for entry in list_named_actors(all_namespaces=True):
            pool, _, slot_name = entry["name"].rpartition(".")
            if entry["namespace"] == NAMESPACE and pool == self._pool and slot_name.startswith(SLOT_PREFIX):
                with suppress(ValueError):  # it ended meanwhile
                    self._workers[slot_name] = ray.get_actor(entry["name"], namespace=NAMESPACE)

    def _carry_out(self, orders: dict[str, PoolConfig]) -> None:
        for slot_name in self._workers.keys() - orders.keys():
            kill_actors([self._workers.pop(slot_name)])
        self.start({slot_name: config for slot_name, config in orders.items() if slot_name not in self._workers})

    def __repr__(self) -> str:
        return f"<WorkerStarter of {self._pool}: {', '.join(self._workers) or 'no workers'}>"


def claim_of_worker(config: PoolConfig) -> Claim:
    """What one worker claims from Ray. Its engine is decided by then (`actors.engine_choice`)."""
    assert config.engine != "auto", "the engine of a pool is decided before its workers are started"
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if config.engine in GPU_ENGINES else 0.0
    return Claim(config.cpus_per_worker, gpus, config.node_labels)


def kill_actors(actors: Iterable[Any]) -> None:
    """End every one of them, whatever becomes of the others."""
    for actor in actors:
        with suppress(RayError, ValueError):  # it is gone already, or so is the cluster
            ray.kill(actor)
