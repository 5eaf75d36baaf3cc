"""`exlpool scale` and `exlpool drain`: they find a running pool by its name and change its workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from actors import Pool, pool_config
from actors.launch import launch
from tests.cluster.conftest import Exlpool
from tests.cluster.test_cli_arguments import plain

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    """Named as that of a served model, and by chance a plain pool's name is the same."""
    name = "my-model.0a1b2c3d4e-0000005f6"
    with Pool.start(name=name, engine="simulated", cpus_per_worker=0.5, cache_tokens=8192) as made:
        yield made


def test_a_pool_is_scaled_and_a_worker_drained(exlpool: Exlpool, pool: Pool) -> None:
    done = exlpool("scale", 2)
    assert (done.status, done.out) == (0, "worker-0  up\nworker-1  up\n"), done.err
    done = exlpool("drain", "worker-0", "--restart", "--grace-s", 1, "--pool", "my/model")
    assert (done.status, done.out) == (0, "worker-1  up\nworker-2  up\n"), done.err
    done = exlpool("drain", "worker-1", "--pool", "my-model.0a1b2c3d4e-0000005f6")
    assert (done.status, done.out) == (0, "worker-2  up\n"), done.err
    assert [worker.slot_name for worker in pool.workers()] == ["worker-2"]
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drain", "worker-700"], "The pool has no worker named 'worker-700'; it has "),
        (["scale", "0"], "This pool has from 1 to 1024 workers, not 0."),
        (["scale", "1000"], "The workers need 500 CPUs but the cluster has 8"),
        (["scale", "2", "--pool", "other"], "No pool named 'other' runs on this cluster; there are: my-model."),
        (["scale", "many"], "must be a whole number, not 'many'"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    exlpool: Exlpool, pool: Pool, arguments: list[str], words: str
) -> None:
    done = exlpool(*arguments)
    assert done.status == 2
    assert words in one_line(done.err)
    assert done.out == ""


def test_the_newest_pool_of_a_model_that_can_generate_is_meant(exlpool: Exlpool, pool: Pool) -> None:
    settings: dict[str, Any] = {"engine": "simulated", "cpus_per_worker": 0.5, "cache_tokens": 8192}
    with (
        Pool.start(name="my-model.4e5f6a7b8c-0000009d0", **settings) as newer,
        Pool.start(name="my-model.4e5f6a7b8c-0000000d0", **settings),
    ):
        for options in ([], ["--pool", "my-model"]):
            assert exlpool("scale", 2, *options).status == 0
            assert len(newer.workers()) == 2
            newer.scale(1)
        launched = launch(pool_config(name="my-model.5e5f6a7b8c-000000fff", simulated={"load_s": 600.0}, **settings))
        try:
            with Pool.connect("my-model") as found:
                assert found.config.name == "my-model.4e5f6a7b8c-0000009d0"
        finally:
            launched.kill()


def test_one_of_several_pools_is_asked_for(exlpool: Exlpool, pool: Pool) -> None:
    with Pool.start(name="other-model", engine="simulated", cpus_per_worker=0.5, cache_tokens=8192):
        done = exlpool("scale", 1)
    assert done.status == 2
    assert "Several pools run on this cluster; name one with --pool: my-model, other-model." in one_line(done.err)


def test_commands_use_a_pool_that_runs(exlpool: Exlpool, pool: Pool, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"token_ids": [5, 6]}) + "\n")
    finished = pool.workers()[0].finished_requests
    done = exlpool("run", prompts, "-", "--pool", "my/model", "--max-new-tokens", 3)
    assert done.status == 0, done.err
    assert json.loads(done.out)["usage"]["completion_tokens"] == 3
    done = exlpool("generate", "x", "--pool", "none")
    assert (done.status, done.out) == (2, "")
    assert "No pool named 'none' runs on this cluster; there are: my-model." in one_line(done.err)
    assert pool.workers()[0].finished_requests == finished + 1


def test_a_pool_that_runs_is_used_as_it_is(exlpool: Exlpool) -> None:
    done = exlpool("generate", "x", "--pool", "my-model", "--workers", 2, "--cache-tokens", 512)
    assert done.status == 2
    assert "--pool uses a pool as it runs: leave --workers and --cache-tokens out." in one_line(done.err)


def one_line(text: str) -> str:
    return plain(text).replace("\n", " ")
