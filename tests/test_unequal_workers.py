"""Workers that take more than those before them: every front hears of it, and they get what fits only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray

from actors import ContextLengthExceeded, Pool
from actors.engines.simulated import expected_tokens

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

WAIT_S = 60.0
PROMPT = tuple(range(10, 2010))


def test_what_only_a_later_worker_can_take_goes_there(eventually: Callable[..., None]) -> None:
    """The second worker has four times the cache of the first, as on a larger GPU."""
    with Pool.start(name="unequal", engine="simulated", cpus_per_worker=0.5, cache_tokens=1024) as pool:
        stream = pool.stream(PROMPT[:10], max_new_tokens=2, temperature=0.0)
        assert "".join(delta.text for delta in stream), "a front of this process knows the first worker"
        with pytest.raises(ContextLengthExceeded):
            ray.get(pool.generate.remote(PROMPT, max_new_tokens=4), timeout=WAIT_S)
        pool.replace(cache_tokens=4096, wait=False)
        eventually(lambda: any(limits_of(worker) == 16 for worker in pool.workers()), timeout_s=WAIT_S)

        def answered() -> bool:
            """By the front's process, and by that of this one: each hears of it by itself, in a moment."""
            try:
                result = ray.get(pool.generate.remote(PROMPT, max_new_tokens=4, temperature=0.0), timeout=WAIT_S)
                deltas = list(pool.stream(PROMPT, max_new_tokens=4, temperature=0.0))
            except ContextLengthExceeded:
                return False
            tokens = tuple(token for delta in deltas for token in delta.token_ids)
            return result.token_ids == tokens == expected_tokens(PROMPT, 4)

        eventually(answered)


def limits_of(worker: object) -> int | None:
    limits = getattr(worker, "limits", None)
    return None if limits is None else int(limits.total_pages)
