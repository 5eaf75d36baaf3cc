"""A detached pool outlives the script that started it, until somebody deletes it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from actors import Pool, PoolNotFound
from actors.engines.simulated import expected_tokens

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STARTER = """
import sys
from actors import Pool

with Pool.start(name="lasting", engine="simulated", detached=True, address=sys.argv[1], simulated={"step_s": 0.002}):
    pass
"""


def test_it_stays_until_it_is_deleted() -> None:
    address = ray.get_runtime_context().gcs_address
    subprocess.run([sys.executable, "-c", STARTER, address], check=True, timeout=120, capture_output=True)
    with Pool.connect("lasting") as pool:
        result = ray.get(pool.generate.remote((10, 11, 12), max_new_tokens=4, temperature=0.0), timeout=60)
        assert result.token_ids == expected_tokens((10, 11, 12), 4)
    with Pool.connect("lasting") as pool:
        pool.delete()
    with pytest.raises(PoolNotFound):
        Pool.connect("lasting")
