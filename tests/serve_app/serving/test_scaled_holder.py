"""The pool of a served model grows and shrinks while it runs, and goes with its holder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pytest
import ray

from actors.ray_session import NAMESPACE, worker_name
from actors.script import changes
from serve_app.config import ModelConfig
from serve_app.serving.pool_holder import HeldPool, PoolHolder
from tests.cluster.conftest import Done, Exlpool, exlpool

__all__ = ["exlpool"]
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

WAIT_S = 90.0


def test_workers_of_a_served_model_come_on_orders_and_go_with_its_holder(
    exlpool: Exlpool, eventually: Callable[..., None]
) -> None:
    model = ModelConfig(name="org/held", engine="simulated", cpus_per_worker=0.5, cache_tokens=8192)
    holder: Any = ray.remote(PoolHolder).options(num_cpus=0).remote(model)
    held: HeldPool = ray.get(holder.pool.remote(), timeout=WAIT_S)
    done: Done = exlpool("scale", 2, "--pool", "org/held")
    assert (done.status, done.out) == (0, "worker-0  up\nworker-1  up\n"), done.err
    name = model.pool(held.life).name
    handles: list[Any] = [ray.get_actor(worker_name(name, f"worker-{n}"), namespace=NAMESPACE) for n in range(2)]
    processes = [psutil.Process(ray.get(handle.heartbeat.remote(), timeout=WAIT_S).pid) for handle in handles]
    config = ray.get(held.dispatcher.config.remote(), timeout=WAIT_S)
    changes.drain(held.dispatcher, config, "worker-0", 1.0, restart=False, wait=True)
    eventually(lambda: not processes[0].is_running())
    ray.kill(holder)
    eventually(lambda: not processes[1].is_running())
