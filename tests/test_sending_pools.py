"""A pool that is closed, cut off, sent or copied: it says so, or works, and never calls another cluster."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from actors import ConfigurationError, Pool, PoolClosed, ray_session
from actors.engines.simulated import expected_tokens
from actors.script import sending, shared_front

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PROMPT = (10, 11, 12)
OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "temperature": 0.0}
WANT = expected_tokens(PROMPT, 5)
Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    with Pool.start(name="sent", engine="simulated", cache_tokens=32768, simulated={"step_s": 0.005}) as made:
        yield made


def generate(pool: Pool) -> tuple[int, ...]:
    token_ids: tuple[int, ...] = ray.get(pool.generate.remote(PROMPT, **OPTIONS), timeout=60).token_ids
    return token_ids


def refuses_everything(pool: Pool) -> None:
    uses: list[Callable[[], object]] = [
        lambda: pool.generate.remote(PROMPT),
        lambda: pool.stream(PROMPT),
        lambda: pool.map([PROMPT]),
        pool.statistics,
        lambda: pool.story("r"),
        pool.delete,
        pool.__enter__,
        lambda: copy.copy(pool),
        lambda: pickle.dumps(pool),
        lambda: pickle.dumps(pool.generate),
    ]
    for use in uses:
        with pytest.raises(PoolClosed):
            use()


def test_a_closed_pool_says_so(pool: Pool) -> None:
    closed = Pool.connect("sent")
    closed.close()
    closed.close()
    refuses_everything(closed)


def test_a_pool_whose_connection_to_ray_has_ended_says_so_and_calls_nobody(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would answer a call by joining another cluster, or by starting one."""
    monkeypatch.setattr(shared_front, "CONNECTION_POLL_S", 0.05)
    cut_off = copy.copy(pool)
    stream = cut_off.stream(PROMPT, max_new_tokens=2)
    running = iter(cut_off.stream(PROMPT, max_new_tokens=6000))
    next(running)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(ray_session, "_session_id", lambda: None)
        refuses_everything(cut_off)
        for left in (stream, running):
            with pytest.raises(PoolClosed):
                list(left)
        cut_off.close()  # there is nothing that it could end
    assert generate(pool) == WANT


def test_a_pool_that_is_sent_to_a_task_arrives_as_a_connection_to_it(pool: Pool) -> None:
    @ray.remote(num_cpus=0)
    def use(sent: Any, how: str) -> tuple[int, ...]:
        if how == "captured":
            sent = pool
        if how == "generate":
            return tuple(ray.get(sent.remote(PROMPT, **OPTIONS), timeout=60).token_ids)
        with sent:
            whole = tuple(ray.get(sent.generate.remote(PROMPT, **OPTIONS), timeout=60).token_ids)
            streamed = tuple(token for delta in sent.stream(PROMPT, **OPTIONS) for token in delta.token_ids)
        assert whole == streamed
        return whole

    for sent, how in ((pool, "sent"), (None, "captured"), (pool.generate, "generate")):
        assert ray.get(use.remote(sent, how), timeout=120) == WANT
    assert generate(pool) == WANT, "what arrived was closed, and the pool was not"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda pool: pickle.loads(pickle.dumps(pool))])
def test_closing_a_copy_leaves_the_pool_alone(pool: Pool, make: Callable[[Pool], Pool]) -> None:
    with make(pool) as other:
        assert generate(other) == WANT
    refuses_everything(other)
    assert generate(pool) == WANT


@pytest.mark.parametrize("there", [None, "another cluster"])
def test_a_pool_that_is_sent_out_of_its_cluster_is_refused(
    pool: Pool, there: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sent in (pickle.dumps(pool), pickle.dumps(pool.generate)):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(sending, "cluster_id", lambda: there)
            with pytest.raises(ConfigurationError, match=r"own Ray cluster.*Pool\.connect"):
                pickle.loads(sent)


def test_a_copy_that_nobody_closes_takes_its_thread_along(pool: Pool, eventually: Eventually) -> None:
    before = set(threading.enumerate())
    other = copy.copy(pool)
    assert len(list(other.stream(PROMPT, max_new_tokens=3))) > 1
    (front,) = (thread for thread in threading.enumerate() if thread not in before and thread.name == "exlpool-front")
    del other
    eventually(lambda: not front.is_alive())
