"""Redeploys under lasting load: every request ends as it would have without them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.conftest import CLUSTER_CPUS
from tests.serve_app.lasting_load import LastingLoad
from tests.serve_app.running import Running, free_port, processes, running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

OTHER_MODEL = "other"
ROOMY = {"cpus_per_worker": 0.1}
ALONE = {"cpus_per_worker": CLUSTER_CPUS - 2.0}
"""Two such pools do not fit the cluster."""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def app(server: str, port: int) -> Iterator[Running]:
    with running("redeployed", server, **settings(port)) as made:
        yield made


def settings(port: int, **others: Any) -> dict[str, Any]:
    return {"listen": {"port": port}, "fronts": {"max_replicas": 1}, **ROOMY, **others}


async def test_the_own_listener_takes_nobody_in_too_early_or_off_too_late(app: Running, port: int) -> None:
    async with LastingLoad(f"http://127.0.0.1:{port}", tokens=5) as load:
        await load.answered(20)
        for choices in (1, 2):
            await asyncio.to_thread(app.deploy, **settings(port, max_choices=choices))
            await load.answered(50)
    assert not load.wrong, load


async def test_a_keeper_that_is_killed_costs_nothing(app: Running) -> None:
    async with LastingLoad(app.url) as load:
        await load.answered(10)
        for keeper in processes("PoolHolder"):
            keeper.kill()
            psutil.wait_procs([keeper], timeout=10.0)
        await load.answered(40)
    assert not load.wrong, load


async def test_a_model_that_cannot_be_loaded_takes_nothing_away(app: Running, port: int) -> None:
    async with LastingLoad(app.url) as load:
        await load.answered(10)
        with pytest.raises(RuntimeError, match="redeployed"):
            await asyncio.to_thread(app.deploy, **settings(port, name=OTHER_MODEL, simulated={"fail_load": True}))
        await load.answered(40)
    assert not load.wrong, load


async def test_a_model_that_is_renamed_ends_its_requests_first(app: Running, port: int) -> None:
    async with LastingLoad(app.url, tokens=1500, clients=3) as load:
        await asyncio.to_thread(app.deploy, **settings(port, name=OTHER_MODEL))
        async with LastingLoad(app.url, model=OTHER_MODEL) as next_load:
            await next_load.answered(10)
    assert not next_load.wrong, next_load
    assert set(load.wrong) <= {"404 model_not_found without Retry-After"}, load
    assert load.requests - load.wrong.total() >= 3, load


async def test_settings_that_change_where_both_pools_fit(app: Running, port: int) -> None:
    async with LastingLoad(app.url, model=OTHER_MODEL) as load:
        await load.answered(10)
        await asyncio.to_thread(app.deploy, **settings(port, name=OTHER_MODEL, workers=2, wait_for="all"))
        await load.answered(40)
    assert not load.wrong, load
    assert len(app.statistics(OTHER_MODEL).workers) == 2


async def test_settings_that_change_where_one_pool_fits(app: Running, port: int) -> None:
    async with LastingLoad(app.url, model=OTHER_MODEL) as load:
        await load.answered(10)
        for seed in ({"step_s": 0.011}, {"step_s": 0.012}):
            await asyncio.to_thread(app.deploy, **settings(port, name=OTHER_MODEL, simulated=seed, **ALONE))
            await load.answered(30)
    assert not load.wrong, load


async def test_a_pool_that_gave_way_in_vain_comes_back(app: Running, port: int) -> None:
    """The settings that it gave way to cannot be loaded."""
    async with LastingLoad(app.url, model=OTHER_MODEL) as load:
        await load.answered(10)
        with pytest.raises(RuntimeError, match="redeployed"):
            await asyncio.to_thread(
                app.deploy, **settings(port, name=OTHER_MODEL, simulated={"fail_load": True}, **ALONE)
            )
        await load.answered(30)
    assert not load.wrong, load


async def test_an_application_that_is_deleted_ends_its_requests_first(server: str) -> None:
    with running("deleted", server, **ROOMY) as app:
        load = LastingLoad(app.url, tokens=1000, clients=3)
        await load.__aenter__()
        while app.statistics().scheduler.running_requests < 3:
            await asyncio.sleep(0.05)
    await load.__aexit__(None, None, None)
    assert load.requests - load.wrong.total() >= 3, load
    assert not [ended for ended in load.wrong if ended.startswith("cut")], load
