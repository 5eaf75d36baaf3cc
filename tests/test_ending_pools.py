"""Pools end in whatever state they are: loading, lost, hanging; and whatever else fails on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psutil
import pytest
import ray

from actors import Pool, PoolNotFound
from actors.config import PoolConfig, pool_config
from actors.launch import find_members, launch
from actors.ray_session import NAMESPACE, worker_name

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
WAIT_S = 60.0


def config(**changes: Any) -> PoolConfig:
    return pool_config(**{"name": "ending", "engine": "simulated", "workers": 2, "detached": True, **changes})


def actor(name: str) -> Any:
    return ray.get_actor(name, namespace=NAMESPACE)


def taken(name: str) -> bool:
    try:
        actor(name)
    except ValueError:
        return False
    return True


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def process_of(name: str) -> psutil.Process:
    return psutil.Process(ray.get(actor(name).heartbeat.remote(), timeout=WAIT_S).pid)


def assert_gone(eventually: Eventually, processes: list[psutil.Process]) -> None:
    names = ["ending", worker_name("ending", "worker-0"), worker_name("ending", "worker-1")]
    eventually(lambda: not any(taken(name) for name in names), WAIT_S)
    eventually(lambda: all(ended(process) for process in processes), WAIT_S)  # Ray is slow to kill a stopped process
    with pytest.raises(PoolNotFound):
        Pool.connect("ending")


def test_a_pool_that_is_still_loading_can_be_deleted(eventually: Eventually) -> None:
    launch(config(simulated={"load_s": 600.0}))
    processes = [process_of(worker_name("ending", slot)) for slot in ("worker-0", "worker-1")]
    with Pool.connect("ending") as pool:
        pool.delete()
    assert_gone(eventually, processes)


def test_a_pool_whose_workers_are_lost_can_be_deleted(eventually: Eventually) -> None:
    launch(config(simulated={"fail_load": True}))
    processes = [process_of(worker_name("ending", slot)) for slot in ("worker-0", "worker-1")]
    with Pool.connect("ending") as pool:
        eventually(lambda: all(worker.failure is not None for worker in pool.statistics().workers))
        pool.delete()
    assert_gone(eventually, processes)


def test_a_pool_whose_workers_are_dead_can_be_deleted(eventually: Eventually) -> None:
    with Pool.start(config=config(max_restarts=0)) as pool:
        processes = [process_of(worker_name("ending", slot)) for slot in ("worker-0", "worker-1")]
        for process in processes:
            process.kill()
        eventually(lambda: all(worker.failure is not None for worker in pool.statistics().workers))
    with Pool.connect("ending") as pool:
        pool.delete()
    assert_gone(eventually, processes)


def test_members_are_found_by_name_and_no_other_pool_s(eventually: Eventually) -> None:
    with Pool.start(config=config(workers=1)) as pool, Pool.start(config=config(name="ending.more", workers=1)):
        assert len(find_members("ending").workers) == 1
        pool.delete()
        assert taken("ending.more.worker-0")
        with Pool.connect("ending.more") as other:
            other.delete()
    with pytest.raises(PoolNotFound):
        find_members("ending")


def test_a_front_that_does_not_end_keeps_nothing_else_from_ending(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool.start(config=config(detached=False))
    processes = [process_of(worker_name("ending", slot)) for slot in ("worker-0", "worker-1")]

    def hangs() -> None:
        raise TimeoutError("something on the loop does not end")

    monkeypatch.setattr(pool._fronts, "close", hangs)
    with pytest.raises(TimeoutError):
        pool.close()
    assert_gone(eventually, processes)
    pool.close()  # safe to call twice


def test_a_worker_that_hangs_does_not_keep_its_pool_from_closing(eventually: Eventually) -> None:
    pool = Pool.start(config=config(detached=False))
    processes = [process_of(worker_name("ending", slot)) for slot in ("worker-0", "worker-1")]
    os.kill(processes[0].pid, signal.SIGSTOP)
    pool.close()
    assert_gone(eventually, processes)
