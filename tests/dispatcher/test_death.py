"""The dispatcher dies by kill -9: what runs goes on, what waits goes on in its order, and nothing runs twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import RayActorError, TaskCancelledError

from actors import Pool
from actors.engines.simulated import expected_tokens
from actors.ray_session import NAMESPACE, worker_name

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Eventually = Callable[..., None]
PROMPT = (10, 11, 12)
WAIT_S = 120.0


@pytest.fixture
def pool(ray_cluster: None) -> Iterator[Pool]:
    settings: dict[str, Any] = {"engine": "simulated", "workers": 1, "cache_tokens": 16384, "max_batch_size": 2}
    with Pool.start(name="headless", **settings, simulated={"step_s": 0.01}) as made:
        yield made


def kill_dispatcher(pool: Pool) -> None:
    """Returns when it is dead for sure."""
    process = psutil.Process(ray.get(pool._dispatcher.pid.remote(), timeout=WAIT_S))
    process.kill()
    process.wait(WAIT_S)


def back(pool: Pool) -> bool:
    try:
        ray.get(pool._dispatcher.pid.remote(), timeout=WAIT_S)
    except RayActorError:
        return False
    return True


def waiting_and_running(pool: Pool) -> tuple[int, int]:
    scheduler = pool.statistics().scheduler
    return sum(scheduler.queued_requests.values()), scheduler.running_requests


def finished(pool: Pool) -> int:
    return pool.statistics().workers[0].finished_requests


def test_what_waits_and_runs_ends_once_in_the_order_of_asking_whichever_front_asked(
    pool: Pool, eventually: Eventually
) -> None:
    prompts = [(*PROMPT, 20 + number) for number in range(10)]
    tokens = [800, 800, *[20] * 8]
    with Pool.connect("headless") as other:
        fronts = (pool, other)
        references = []
        for number, prompt in enumerate(prompts):
            asked = fronts[number % 2].generate.remote(prompt, max_new_tokens=tokens[number], temperature=0.0)
            references.append(asked)
            eventually(lambda: sum(waiting_and_running(pool)) == len(references))
        kill_dispatcher(pool)
        during = other.generate.remote(PROMPT, max_new_tokens=20, temperature=0.0)
        results = ray.get(references, timeout=WAIT_S)
        last = ray.get(during, timeout=WAIT_S)
    assert [result.token_ids for result in results] == list(map(expected_tokens, prompts, tokens))
    assert last.token_ids == expected_tokens(PROMPT, 20)
    assert {result.attempts for result in results} == {1}
    assert finished(pool) == len(prompts) + 1, "the worker counts what it ran: nothing ran twice"
    stories = [pool.story(result.request_id) for result in (*results, last)]
    granted = [float(line.partition(" s:")[0]) for story in stories for line in story if "granted" in line]
    assert len(granted) == 9, "all that waited"
    assert granted == sorted(granted)
    eventually(lambda: waiting_and_running(pool) == (0, 0))
    (worker,) = pool.statistics().scheduler.workers
    assert worker.free_pages == worker.total_pages


def test_a_stream_never_stops_while_there_is_no_dispatcher(pool: Pool) -> None:
    stream = iter(pool.stream(PROMPT, max_new_tokens=200, temperature=0.0))
    token_ids = list(next(stream).token_ids)
    process = psutil.Process(ray.get(pool._dispatcher.pid.remote(), timeout=WAIT_S))
    process.suspend()
    token_ids += [token for delta in stream for token in delta.token_ids]
    process.kill()
    assert tuple(token_ids) == expected_tokens(PROMPT, 200)


def test_what_is_cancelled_while_it_is_away_is_nowhere_any_more(pool: Pool, eventually: Eventually) -> None:
    """What ran, and what only the dead one knew of."""
    references = []
    for number in range(4):
        references.append(pool.generate.remote((*PROMPT, number), max_new_tokens=3000))
        eventually(lambda: sum(waiting_and_running(pool)) == len(references))
    kill_dispatcher(pool)
    for reference in references:
        ray.cancel(reference)
    for reference in references:
        with pytest.raises(TaskCancelledError):
            ray.get(reference, timeout=WAIT_S)
    eventually(lambda: back(pool))
    eventually(lambda: waiting_and_running(pool) == (0, 0))
    worker: Any = ray.get_actor(worker_name("headless", "worker-0"), namespace=NAMESPACE)
    eventually(lambda: ray.get(worker.debug_state.remote(), timeout=WAIT_S)["streams"] == 1)
    result = ray.get(pool.generate.remote(PROMPT, max_new_tokens=3, temperature=0.0), timeout=WAIT_S)
    assert result.token_ids == expected_tokens(PROMPT, 3)


def test_what_a_worker_has_done_is_not_forgotten(pool: Pool, eventually: Eventually) -> None:
    ray.get(pool.generate.remote(PROMPT, max_new_tokens=7, temperature=0.0), timeout=WAIT_S)
    eventually(lambda: pool.statistics().workers[0].generated_tokens >= 7)
    before = pool.statistics().workers[0]
    kill_dispatcher(pool)
    eventually(lambda: back(pool) and pool.statistics().workers[0].worker_id == before.worker_id)
    after = pool.statistics().workers[0]
    assert (after.generated_tokens, after.finished_requests) == (before.generated_tokens, before.finished_requests)
