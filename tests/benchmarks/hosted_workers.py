"""Many workers in few processes, so that a machine of two cores can hold a pool of hundreds.

Every worker is a real `actors.worker.worker.Worker` with a simulated engine, and every message between it, the
dispatcher and the fronts goes the way it always goes. Only the process is shared: the actor of a host runs many of
them, and a `HostedWorker` stands where else the worker's own handle does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray

from actors.config import EngineConfig, PoolConfig
from actors.dispatcher import membership
from actors.dispatcher.dispatcher import Dispatcher
from actors.front.front import Front
from actors.ray_session import STREAM_BACKPRESSURE
from actors.worker.worker import Worker


class Host:
    """One actor, many workers."""

    def __init__(self, names: tuple[str, ...], config: EngineConfig) -> None:
        self._workers = {name: Worker(name, config) for name in names}

    async def call(self, name: str, method: str, arguments: tuple[Any, ...]) -> Any:
        return await getattr(self._workers[name], method)(*arguments)

    async def stream(self, name: str, method: str, arguments: tuple[Any, ...]) -> AsyncIterator[Any]:
        async for message in getattr(self._workers[name], method)(*arguments):
            yield message


@dataclass(frozen=True, slots=True)
class _Method:
    host: Any
    worker: str
    name: str
    options_: Mapping[str, Any] = field(default_factory=dict)

    def options(self, **options: Any) -> _Method:
        return _Method(self.host, self.worker, self.name, options)

    def remote(self, *arguments: Any) -> Any:
        if self.options_.get("num_returns") != "streaming":
            return self.host.call.remote(self.worker, self.name, arguments)
        method = self.host.stream.options(
            num_returns="streaming", _generator_backpressure_num_objects=STREAM_BACKPRESSURE
        )
        return method.remote(self.worker, self.name, arguments)


@dataclass(frozen=True, slots=True)
class HostedWorker:
    """In the place of the handle of a worker's actor."""

    host: Any
    name: str

    @property
    def _actor_id(self) -> Any:
        return self.host._actor_id

    def __getattr__(self, method: str) -> _Method:
        if method.startswith("_"):  # what pickle and copy ask for
            raise AttributeError(method)
        return _Method(self.host, self.name, method)


class HostedDispatcher(Dispatcher):
    """A dispatcher that finds its workers on hosts."""

    def __init__(self, config: PoolConfig, model_dir: str, hosts: Mapping[str, Any]) -> None:
        """`hosts`: by the name of each slot, the actor that has its worker."""
        found = {f"{config.name}.{name}": HostedWorker(host, name) for name, host in hosts.items()}
        setattr(membership, "find_actor", found.get)  # noqa: B010 - what it takes the place of is a name there, not an export
        super().__init__(config, model_dir, tuple(hosts))


def start_hosted_pool(config: PoolConfig, model_dir: str, hosts: int) -> tuple[Any, list[Any]]:
    """The dispatcher and the hosts of a pool of `config.workers` workers. They end with the process that calls this, or
    when they are killed."""
    engine = EngineConfig(**{name: getattr(config, name) for name in EngineConfig.model_fields})
    names = [f"worker-{index}" for index in range(config.workers)]
    host_of: dict[str, Any] = {}
    started = []
    for index in range(min(hosts, config.workers)):
        share = tuple(names[index::hosts])
        host = ray.remote(Host).options(num_cpus=0, max_concurrency=4096).remote(share, engine)
        started.append(host)
        host_of |= dict.fromkeys(share, host)
    dispatcher: Any = (
        ray.remote(HostedDispatcher).options(num_cpus=0, name=config.name).remote(config, model_dir, host_of)
    )
    return dispatcher, started


async def open_front(dispatcher: Any) -> Front:
    """A front that never has to look for a worker by its name, which only an actor has."""
    front = await Front.open(dispatcher, patient=True)
    front._handles.keep_only = _keep_all  # type: ignore[method-assign]
    return front


def _keep_all(worker_ids: Iterable[str]) -> None:
    """In the place of `WorkerHandles.keep_only`."""
