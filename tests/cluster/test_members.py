"""`exlpool scale` and `exlpool drain`: they find a running pool by its name and change its workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from actors import Pool
from actors.ray_session import NAMESPACE
from tests.cluster.conftest import Exlpool
from tests.cluster.test_cli_arguments import plain

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    """Named as that of a served model, and by chance a plain pool's name is the same."""
    name = "my-model.0a1b2c3d4e-5f6a7b"
    with Pool.start(name=name, engine="simulated", cpus_per_worker=0.5, cache_tokens=8192) as made:
        yield made


def test_a_pool_is_scaled_and_a_worker_drained(exlpool: Exlpool, pool: Pool) -> None:
    done = exlpool("scale", 2)
    assert (done.status, done.out) == (0, "worker-0  up\nworker-1  up\n"), done.err
    done = exlpool("drain", "worker-0", "--restart", "--grace-s", 1, "--pool", "my/model")
    assert (done.status, done.out) == (0, "worker-1  up\nworker-2  up\n"), done.err
    done = exlpool("drain", "worker-1", "--pool", "my-model.0a1b2c3d4e-5f6a7b")
    assert (done.status, done.out) == (0, "worker-2  up\n"), done.err
    assert [worker.slot_name for worker in pool.workers()] == ["worker-2"]
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["drain", "worker-700"], "The pool has no worker named 'worker-700'; it has "),
        (["scale", "0"], "This pool has from 1 to 1024 workers, not 0."),
        (["scale", "1000"], "The workers need 500 CPUs but the cluster has 8"),
        (["scale", "2", "--pool", "other"], "No pool named 'other' runs here."),
        (["scale", "many"], "must be a whole number, not 'many'"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(
    exlpool: Exlpool, pool: Pool, arguments: list[str], words: str
) -> None:
    done = exlpool(*arguments)
    assert done.status == 2
    assert words in plain(done.err).replace("\n", " ")
    assert done.out == ""


def test_a_pool_that_could_be_another_one_is_asked_for(exlpool: Exlpool, pool: Pool) -> None:
    with Pool.start(name="my-model.4e5f6a7b8c-9d0e1f", engine="simulated", cpus_per_worker=0.5, cache_tokens=8192):
        for options in ([], ["--pool", "my-model"]):
            done = exlpool("scale", 1, *options)
            assert done.status == 2
            assert "my-model.0a1b2c3d4e-5f6a7b, my-model.4e5f6a7b8c-9d0e1f" in plain(done.err).replace("\n", " ")
    assert ray.get_actor("my-model.0a1b2c3d4e-5f6a7b", namespace=NAMESPACE)
