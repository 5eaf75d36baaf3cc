"""The holder of a pool: who keeps it, how it gives way, and what becomes of it when its process is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import ActorDiedError, RayError

from actors.errors import NoHealthyWorker
from actors.ray_session import cancel_stream, open_stream
from serve_app.config import ModelConfig
from serve_app.serving import pool_owner
from serve_app.serving.pool_holder import Recalled, Retirement
from serve_app.serving.pool_lease import Lease, ensure_holder
from serve_app.serving.pool_names import holder_name, holders_of
from serve_app.serving.pool_owner import PoolOwner
from tests.serve_app.running import SETTINGS, processes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_cluster")]

APP = "holding"
DEADLINE_S = 60.0


def config(name: str, **settings: Any) -> ModelConfig:
    return ModelConfig(**{**SETTINGS, "name": name, **settings})


async def lease(model: ModelConfig, **options: Any) -> Lease:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await Lease.open(ensure_holder(APP, model), **options)
            except RayError:
                await asyncio.sleep(0.1)


@pytest.fixture
async def ends() -> AsyncIterator[list[Any]]:
    """Holders to end after the test."""
    holders: list[Any] = []
    yield holders
    for holder in holders:
        try:
            await holder.end.remote()
        except RayError:
            continue


async def worker_ids(held: Lease) -> set[str]:
    version, found = -1, set[str]()
    async with asyncio.timeout(DEADLINE_S):
        while not found:
            version, states = await held.pool.dispatcher.progress.remote(version)
            found = {state.worker_id for state in states if state.worker_id is not None}
    return found


async def test_a_lease_that_is_given_back_leaves_time_for_the_next(ends: list[Any]) -> None:
    """Serve stops an owner that it takes for crashed, and starts another."""
    model = config("given-back")
    first = await lease(model)
    ends.append(first.holder)
    workers = await worker_ids(first)
    first.release()
    async with asyncio.timeout(DEADLINE_S):
        while await first.holder.leases.remote():
            await asyncio.sleep(0.05)
    second = await lease(model)
    assert second.pool.life == first.pool.life
    assert await worker_ids(second) == workers


@pytest.mark.parametrize("how", ["killed", "removed"])
async def test_a_pool_outlives_its_holder(how: str, ends: list[Any]) -> None:
    model = config(f"holder-{how}")
    others = processes("PoolHolder")
    first = await lease(model)
    workers = await worker_ids(first)
    if how == "killed":
        (process,) = (one for one in processes("PoolHolder") if one not in others)
        process.kill()
        psutil.wait_procs([process], timeout=10.0)
    else:
        ray.kill(first.holder)
    with pytest.raises(RayError):
        async with asyncio.timeout(DEADLINE_S):
            await first.notice()
    second = await lease(model)
    ends.append(second.holder)
    assert second.pool.life == first.pool.life
    assert await worker_ids(second) == workers


async def test_it_gives_way_when_its_fronts_have_left(ends: list[Any]) -> None:
    model = config("gives-way")
    owner, front = await lease(model), await lease(model, front="v1 a")
    ends.append(owner.holder)
    order = open_stream(front.holder.retire, "the next", 60.0)
    assert await front.notice() == Retirement("the next")
    assert await owner.notice() == Retirement("the next")
    assert await front.holder.fronts.remote() == {"v1 a"}
    cancel_stream(order)  # the version that ordered it is rolled back
    assert await front.notice() == Recalled()
    order = open_stream(front.holder.retire, "the next", 60.0)
    assert await front.notice() == Retirement("the next")
    again = await lease(model, recalls=True)  # as does an owner with the same settings
    assert await front.notice() == Recalled()
    order = open_stream(front.holder.retire, "the next", 60.0)
    assert await front.notice() == Retirement("the next")
    await front.leave()
    async with asyncio.timeout(DEADLINE_S):
        assert await front.notice() is None
    assert again.pool.life == front.pool.life
    del order


async def test_it_waits_for_its_fronts_no_longer_than_it_may(ends: list[Any]) -> None:
    model = config("waits")
    front = await lease(model, front="v1 a")
    ends.append(front.holder)
    order = open_stream(front.holder.retire, None, 1.0)
    assert await front.notice() == Retirement(None)
    started_s = time.monotonic()
    assert await front.notice() is None
    assert time.monotonic() - started_s < DEADLINE_S
    del order


async def test_settings_tell_pools_apart() -> None:
    assert holder_name(APP, config("m")) == holder_name(APP, config("m"))
    names = {holder_name(APP, config("m")), holder_name("b", config("m")), holder_name(APP, config("m", workers=2))}
    assert len(names) == 3
    assert set(holders_of("no such application")) == set()


class DeadAtFirst:
    """A dispatcher of which Ray says that it has died, once or for good."""

    def __init__(self, *, gone: bool) -> None:
        async def died(*_: Any) -> Any:
            raise ActorDiedError

        async def answers() -> bool:
            return True

        self.progress = SimpleNamespace(remote=died)
        self.__ray_ready__ = SimpleNamespace(remote=died if gone else answers)


class BareOwner(PoolOwner):
    """An owner that Serve knows nothing of."""

    def __init__(self, model: ModelConfig, owned: Any) -> None:
        self._config, self._proven, self._owned = model, None, owned

    def __del__(self) -> None:  # type: ignore[override] # Serve awaits the real one
        """Nothing is held."""


@pytest.mark.parametrize("gone", [False, True])
async def test_a_dispatcher_that_dies_is_not_yet_lost(gone: bool) -> None:
    """Serve stops an owner that lets such an error out, and the pool with it."""
    ended: list[bool] = []

    async def end() -> None:
        ended.append(True)

    pool = SimpleNamespace(dispatcher=DeadAtFirst(gone=gone), life="a")
    owner = BareOwner(config("dies"), SimpleNamespace(pool=pool, failure=None, end=end))
    if gone:
        with pytest.raises(NoHealthyWorker):
            await owner.check_health()
    else:
        await owner.check_health()
    assert ended == [True] * gone


Eventually = Callable[..., None]


def test_nothing_is_left(eventually: Eventually) -> None:
    eventually(lambda: not holders_of(APP), timeout_s=pool_owner.STARVED_S + 40.0)
