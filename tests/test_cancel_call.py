"""Cancelling one Ray call of a script takes back that request, and nothing of the others that share its links."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray
from ray.exceptions import TaskCancelledError

from actors import Pool
from actors.engines.simulated import expected_tokens

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PROMPT, TOKENS = (10, 11, 12), 100


def test_the_call_that_opened_the_links_can_be_cancelled(eventually: Callable[..., None]) -> None:
    with Pool.start(name="cancelling", engine="simulated", simulated={"step_s": 0.01}) as pool:

        def running() -> int:
            return pool.statistics().scheduler.running_requests

        first = pool.generate.remote(PROMPT, max_new_tokens=4000, temperature=0.0)
        eventually(lambda: running() == 1)
        second = pool.generate.remote((*PROMPT, 13), max_new_tokens=TOKENS, temperature=0.0)
        eventually(lambda: running() == 2)
        ray.cancel(first)
        with pytest.raises(TaskCancelledError):
            ray.get(first, timeout=10)
        assert ray.get(second, timeout=30).token_ids == expected_tokens((*PROMPT, 13), TOKENS)
        third = ray.get(pool.generate.remote(PROMPT, max_new_tokens=3, temperature=0.0), timeout=30)
        assert third.attempts == 1
        eventually(lambda: running() == 0)
