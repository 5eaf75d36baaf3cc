"""The pool of a served model is one more way to its workers: scripts of the cluster find it by the model's name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import ray

from actors import Pool, PoolClosed
from tests.serve_app.running import MODEL, running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

OTHER_PROCESS = """
import sys
import ray
from actors import Pool

with Pool.connect("sim", address=sys.argv[1]) as pool:
    print(pool.config.name)
    print(len(ray.get(pool.generate.remote((10, 11, 12), max_new_tokens=5)).token_ids))
"""


def test_a_script_finds_the_pool_and_its_successor(server: str, eventually: Callable[..., None]) -> None:
    with running("named", server) as app:
        before = app.statistics().workers[0].finished_requests
        done = subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, ray.get_runtime_context().gcs_address],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        name, tokens = done.stdout.splitlines()[-2:]
        assert tokens == "5", done.stderr
        eventually(lambda: app.statistics().workers[0].finished_requests == before + 1)

        with Pool.connect(MODEL) as old:
            assert old.config.name == name
            assert sum(len(delta.token_ids) for delta in old.stream((5, 6), max_new_tokens=3)) == 3
            app.deploy(max_batch_size=31)
            eventually(lambda: _serves(MODEL) == 31)
            eventually(lambda: _is_closed(old))
            with pytest.raises(PoolClosed, match=r"Pool.connect\('sim'\) finds the one that serves now"):
                list(old.stream((5, 6), max_new_tokens=3))
            with pytest.raises(PoolClosed, match=r"Pool.connect\('sim'\)"):
                ray.get(old.generate.remote((5, 6), max_new_tokens=3), timeout=60)


def _serves(model: str) -> int:
    with Pool.connect(model) as found:
        return found.config.max_batch_size


def _is_closed(pool: Pool) -> bool:
    try:
        pool.statistics()
    except PoolClosed:
        return True
    return False
