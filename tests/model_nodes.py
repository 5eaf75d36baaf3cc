"""The part of tests/test_model_nodes.py that needs a cluster of its own, and so a process of its own.

The head has neither GPU nor CPUs for workers nor the model; two nodes have other files than it, and than each other, at
the model's path, since each sees the directory that is mounted there for itself alone. Says what came of it, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from actors import ExlpoolError, Pool, pool_config
from actors.builtin_model import builtin_model_path
from actors.engine_choice import decide_engine
from actors.ray_session import NAMESPACE, prepare_private_cluster
from actors.worker_starter import claim_of_worker
from cluster.config import APP_NAME
from cluster.server import _has_template
from serve_app.config import ModelConfig
from serve_app.models.served import ServedModel
from serve_app.serving.pool_lease import ensure_holder
from tests.engines.model_files import HALF, WORDS, write_model

WAIT_S = 120.0
ADDRESSES = ("127.0.0.2", "127.0.0.3")
"""Of the nodes with the models."""
CPU: dict[str, Any] = {"engine": "cpu", "cache_tokens": 4096}
END_S = 40.0
"""Ray drains a node for 30 s at most."""


def make_models(root: Path) -> tuple[Path, Path]:
    """What the two nodes see at one path: both have the models "built", which differ, and "exl2"."""
    folders = root / "first", root / "second"
    for folder in folders:
        shutil.copytree(builtin_model_path(), folder / "built")
        write_model(folder / "exl2", x__q_weight=WORDS, y__weight=HALF)
    (folders[1] / "built" / "generation_config.json").write_text('{"eos_token_id": 7}')
    return folders


@contextlib.contextmanager
def node(cluster: Cluster, address: str, sees: Path, at: Path, *options: str) -> Iterator[None]:
    """A node that sees the folder `sees` at the path `at`, gone with the `with` block."""
    ports = ("--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", "0")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--address", cluster.address]
    command = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", sees, at]
    process = subprocess.Popen(
        [*map(str, command), *start, "--node-ip-address", address, *ports, "--metrics-export-port", "0", *options],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it takes too long"
        time.sleep(0.1)  # a poll, bounded by the deadline above


def wait_for_nodes(count: int) -> None:
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == count)  # type: ignore[no-untyped-call]


def failure(**settings: Any) -> str:
    """What a pool's start is refused with."""
    try:
        Pool.start(name="refused", **settings).close()
    except ExlpoolError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def decided(model: Path, **settings: Any) -> tuple[str, float]:
    """The engine of workers, and the GPUs of each."""
    config = decide_engine(pool_config(model=model, **settings))
    return config.engine, claim_of_worker(config).gpus


def asked(pool: Pool) -> dict[str, int]:
    """Tokens made by way of the actor beside the script, and of a front of the script itself."""
    done = ray.get(pool.generate.remote("Once upon a time", max_new_tokens=8, ignore_eos=True), timeout=WAIT_S)
    streamed = sum(len(delta.token_ids) for delta in pool.stream("Once upon a time", max_new_tokens=8, ignore_eos=True))
    return {"actor": len(done.token_ids), "script": streamed}


async def served(dispatcher: Any) -> list[int]:
    """The token ids of a text, by what a replica of the HTTP front uses."""
    model = ServedModel("built", dispatcher, created=0)
    model.start()
    try:
        async with asyncio.timeout(WAIT_S):
            while not model.ready:
                await asyncio.sleep(0.05)
        return list(await model.text.encode("Once upon a time", size=16))
    finally:
        await model.close()


def with_a_model_elsewhere(model: Path) -> dict[str, Any]:
    """One worker, on whichever node."""
    config = ModelConfig(model=model, **CPU)
    holder = ensure_holder(APP_NAME, config)
    pool = ray.get(holder.pool.remote(), timeout=WAIT_S)
    told: dict[str, Any] = {"replica": asyncio.run(served(pool.dispatcher)), "chats": _has_template(config)}
    ray.get(holder.end.remote(), timeout=WAIT_S)
    with Pool.start(model, name="elsewhere", **CPU) as started:
        told["script"] = asked(started)
        started.replace(cache_tokens=8192)
        with Pool.connect("elsewhere") as found:
            told["replaced"] = asked(found)
    with Pool.start(model, name="asleep", min_workers=0, **CPU) as started:
        started.scale(0)
        with Pool.connect("asleep") as found:
            told["woken"] = asked(found)
    return told


def main() -> None:
    root = Path(sys.argv[1])
    models = root / "models"
    models.mkdir()
    first, second = make_models(root)
    prepare_private_cluster()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    cpu, gpu = ("--num-cpus", "1", "--num-gpus", "0"), ("--num-cpus", "1", "--num-gpus", "1")
    with node(cluster, ADDRESSES[0], first, models, *gpu):
        wait_for_nodes(2)
        told = {
            "unquantised": decided(models / "built"),
            "exl2": decided(models / "exl2"),
            "named": decided(models / "none", engine="exllamav2"),
            "absent": failure(model=models / "none"),
            "no gpu there": failure(model=models / "built"),
            "elsewhere": with_a_model_elsewhere(models / "built"),
        }
        with node(cluster, ADDRESSES[1], second, models, *cpu):
            wait_for_nodes(3)
            told["different"] = failure(
                model=models / "built", engine="cpu", workers=2, cache_tokens=4096, wait_for="all"
            )
    told["left over"] = os.listdir(models)
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
