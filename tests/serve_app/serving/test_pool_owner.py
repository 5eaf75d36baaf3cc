"""Who owns a pool: it outlives updates that do not concern it, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray import serve
from ray.exceptions import RayError

from actors.errors import ExlpoolError
from actors.ray_session import NAMESPACE
from serve_app.edge.keys import new_entry, new_key
from serve_app.edge.keys_changes import add_key
from serve_app.serving.pool_holder import GRACE_S
from tests.serve_app.running import Running, ask, http_client, processes, read_stream, running, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

Eventually = Callable[..., None]


def is_there(name: str) -> bool:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return False
    return True


@contextlib.asynccontextmanager
async def streams_under_way(app: Running, count: int, tokens: int) -> AsyncIterator[list[int]]:
    """Clients that ask again and again until the end of the block; every answer must be whole. Yields how many were."""
    finished: list[int] = []
    stop = asyncio.Event()

    async def client(http: httpx.AsyncClient) -> None:
        while not stop.is_set():
            events = await read_stream(http, app.url, ask(tokens))
            assert events[-1] == "[DONE]"
            assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
            finished.append(1)

    async with http_client() as http:
        clients = [asyncio.create_task(client(http)) for _ in range(count)]
        try:
            yield finished
        finally:
            stop.set()
            await asyncio.gather(*clients)


async def test_an_update_drops_nothing_and_keeps_the_workers(server: str) -> None:
    with running("update", server, max_choices=128) as app:
        workers = app.worker_ids()
        async with streams_under_way(app, 8, 100) as finished:
            await until(lambda: len(finished) > 8, 30.0)
            await asyncio.to_thread(app.deploy, max_choices=1)
            begun = len(finished)
            await until(lambda: len(finished) > begun + 16, 30.0)
        assert app.worker_ids() == workers
        async with http_client() as http:
            refused = await http.post(f"{app.url}/v1/completions", json=ask(1, stream=False, n=2))
        assert refused.status_code == 400, "the new settings are in force"


async def test_other_settings_of_a_model_make_a_new_pool_when_the_old_one_is_done(server: str) -> None:
    with running("change", server) as app:
        before = app.worker_ids()
        async with http_client() as http:
            stream = asyncio.create_task(read_stream(http, app.url, ask(400)))
            await until(lambda: app.statistics().scheduler.running_requests == 1, 10.0)
            await asyncio.to_thread(app.deploy, workers=2, wait_for="all")
            assert (await stream)[-1] == "[DONE]"
            await asyncio.to_thread(app.wait_ready)
            assert len(app.worker_ids() - before) == 2
            assert (await read_stream(http, app.url, ask(3)))[-1] == "[DONE]"


def test_nothing_is_left_of_an_application_that_is_deleted(server: str, eventually: Eventually) -> None:
    with running("short", server, models=[{"name": "a", "engine": "simulated", "cpus_per_worker": 0.1}]) as app:
        pool = ray.get(app.dispatcher("a").config.remote(), timeout=30).name
        assert is_there(pool)
        assert app.holders("a")
        before = len(processes("Worker.")), len(processes("PoolHolder"))
    eventually(lambda: not app.holders("a") and not is_there(pool), timeout_s=GRACE_S + 10.0)
    assert not is_there(f"{pool}.worker-0")
    eventually(lambda: len(processes("PoolHolder")) < before[1], timeout_s=10.0)
    eventually(lambda: not processes("ServeReplica:short"), timeout_s=10.0)


def kill_owner(app: Running) -> None:
    (owner,) = processes(f"ServeReplica:{app.name}:PoolOwner")
    owner.kill()


def test_an_owner_that_is_killed_is_replaced_and_the_pool_stays(server: str, eventually: Eventually) -> None:
    with running("owned", server) as app:
        workers, holder = app.worker_ids(), app.holder()
        (before,) = processes("ServeReplica:owned:PoolOwner")
        kill_owner(app)
        eventually(lambda: before not in processes("ServeReplica:owned:PoolOwner"))
        eventually(lambda: len(processes("ServeReplica:owned:PoolOwner")) == 1)
        eventually(lambda: ray.get(holder.leases.remote(), timeout=10) == 2, timeout_s=GRACE_S)  # a front has one too
        assert app.worker_ids() == workers
        assert httpx.post(f"{app.url}/v1/completions", json=ask(3, stream=False)).status_code == 200
    eventually(lambda: not app.holders(), timeout_s=GRACE_S + 10.0)


def test_a_pool_whose_owner_never_comes_back_ends(server: str, eventually: Eventually) -> None:
    with running("orphan", server) as app:
        kill_owner(app)
    eventually(lambda: not app.holders(), timeout_s=GRACE_S + 15.0)
    eventually(lambda: not processes("ServeReplica:orphan"), timeout_s=10.0)


def test_a_pool_that_is_lost_is_started_anew(server: str, eventually: Eventually) -> None:
    with running("lost", server) as app:
        before = app.worker_ids()
        ray.kill(app.dispatcher())
        eventually(lambda: _others(app, before), timeout_s=60.0)
        eventually(lambda: httpx.get(f"{app.url}/ready").status_code == 200, timeout_s=30.0)
        assert httpx.post(f"{app.url}/v1/completions", json=ask(3, stream=False)).status_code == 200


def _others(app: Running, before: set[str | None]) -> bool:
    """The pool is another one, with all workers there."""
    try:
        now = app.worker_ids()
    except (ValueError, RayError, ExlpoolError):
        return False  # one pool ends and the next is not there yet
    return None not in now and not now & before


def test_a_model_that_cannot_be_loaded_is_told_and_nothing_is_left(server: str, eventually: Eventually) -> None:
    app = Running("broken", server)
    try:
        with pytest.raises(RuntimeError, match="broken"):
            app.deploy(simulated={"fail_load": True})
    finally:
        serve.delete("broken")
    eventually(lambda: not app.holders(), timeout_s=10.0)


def test_two_models_have_two_pools(server: str) -> None:
    small = {"engine": "simulated", "cpus_per_worker": 0.1}
    with running("two", server, models=[{"name": "org/a", **small}, {"name": "b", **small}]) as app:
        assert [one["id"] for one in httpx.get(f"{app.url}/v1/models").json()["data"]] == ["org/a", "b"]
        for name in ("org/a", "b"):
            body = ask(3, stream=False) | {"model": name}
            assert httpx.post(f"{app.url}/v1/completions", json=body).json()["model"] == name
            assert app.statistics(name).scheduler.finished == 1
        unknown = httpx.post(f"{app.url}/v1/completions", json=ask(3) | {"model": "c"})
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "model_not_found"


async def test_keys_are_read_anew_when_they_change(server: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    alice, bob = new_key(), new_key()
    add_key(file, new_entry(alice, "alice", weight=3.0, max_priority="batch"))

    with running("keyed", server, keys_file=str(file)) as app:

        def status(key: str | None, **options: Any) -> int:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return httpx.post(f"{app.url}/v1/completions", json=ask(2, **options), headers=headers).status_code

        def metrics(key: str) -> str:
            return httpx.get(f"{app.url}/metrics", headers={"x-api-key": key}).text

        def ready() -> Any:
            return httpx.get(f"{app.url}/ready").json()

        assert [status(None), status(bob)] == [401, 401]
        assert status(alice, priority="batch") == 200
        assert status(alice, priority="interactive") == 403
        tenants = {tenant.tenant for tenant in app.statistics().scheduler.tenants}
        assert tenants <= {"alice"}
        add_key(file, new_entry(bob, "bob"))
        await until(lambda: status(bob) == 200, 10.0)
        file.write_text("- nonsense")
        await until(lambda: ready()["keys_file"] == "broken", 10.0)
        assert ready()["status"] == "ready", "a broken file changes nothing"
        assert [status(alice, priority="batch"), status(bob), status(None)] == [200, 200, 401]
        assert re.search(r"^exlpool_keys_file_broken\{.*\} 1.0$", metrics(bob), re.MULTILINE)
        file.unlink()
        await until(lambda: status(bob) == 401, 10.0)
        assert ready()["keys_file"] == "missing"
        assert [status(alice, priority="batch"), status(None)] == [401, 401]


def test_only_this_machine_can_reach_http(server: str) -> None:
    """Ray's own ports are Ray's; whatever speaks HTTP for us listens on loopback."""
    with running("local", server):
        port = int(server.rpartition(":")[2])
        reachable: list[tuple[str, int]] = []
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                listening = [one.laddr for one in process.net_connections("tcp") if one.status == "LISTEN"]
                reachable += [(one.ip, one.port) for one in listening if "Serve" in process.name() or one.port == port]
        assert ("127.0.0.1", port) in reachable
        for _, other in {one for one in reachable if one[0] != "127.0.0.1"}:
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{other}/local/health", timeout=2.0)
