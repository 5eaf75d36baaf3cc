"""What is counted, and how it is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx
from ray.exceptions import ActorDiedError
from starlette.applications import Starlette

from actors.dispatcher.statistics import PoolStatistics
from actors.scheduling.core import Scheduler
from serve_app.metrics.keys_file import KeysFileStatus
from serve_app.metrics.observer import RequestRecord, Unobserved
from serve_app.metrics.prometheus import STATISTICS_TIMEOUT_S, Metrics, Observers

RECORD = RequestRecord(
    endpoint="chat",
    model="m",
    outcome="ok",
    status=200,
    duration_s=0.7,
    queue_s=0.02,
    prompt_tokens=30,
    completion_tokens=5,
    cached_tokens=10,
)


async def pool() -> PoolStatistics:
    return PoolStatistics(scheduler=Scheduler().statistics(0.0), workers=())


async def lost() -> PoolStatistics:
    raise ActorDiedError


async def silent() -> PoolStatistics:
    await asyncio.sleep(STATISTICS_TIMEOUT_S * 100)
    raise AssertionError("nobody waits that long")


async def told(metrics: Metrics, ask: object = pool) -> dict[str, float]:
    """Every sample, by its name and labels."""
    app = Starlette()
    app.add_route("/metrics", metrics.endpoint(lambda: {"m": ask()}))  # type: ignore[operator]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        lines = (await http.get("/metrics")).text.splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


LABELS = 'model="m",replica="r1"'


async def test_a_request_is_counted_with_its_tokens_and_times() -> None:
    metrics = Metrics("r1")
    metrics.started("m")
    metrics.first_tokens("m", 0.3)
    metrics.later_tokens("m", 0.02, 1)
    assert (await told(metrics))[f"exlpool_active_requests{{{LABELS}}}"] == 1.0
    metrics.ended(RECORD)
    samples = await told(metrics)
    assert samples[f"exlpool_active_requests{{{LABELS}}}"] == 0.0
    assert samples['exlpool_requests_total{endpoint="chat",model="m",outcome="ok",replica="r1"}'] == 1.0
    assert samples[f'exlpool_tokens_total{{kind="prompt",{LABELS}}}'] == 30.0
    assert samples[f'exlpool_tokens_total{{kind="completion",{LABELS}}}'] == 5.0
    assert samples[f'exlpool_tokens_total{{kind="cached",{LABELS}}}'] == 10.0
    assert samples[f"exlpool_request_seconds_sum{{{LABELS}}}"] == 0.7
    assert samples[f"exlpool_first_token_seconds_sum{{{LABELS}}}"] == 0.3
    assert samples[f"exlpool_token_gap_seconds_sum{{{LABELS}}}"] == 0.02
    assert samples[f"exlpool_queue_seconds_count{{{LABELS}}}"] == 1.0


async def test_a_request_that_was_never_valid_is_counted_and_no_more() -> None:
    metrics = Metrics("r1")
    metrics.ended(replace(RECORD, model="", outcome="invalid_request", status=400))
    samples = await told(metrics)
    assert samples['exlpool_requests_total{endpoint="chat",model="",outcome="invalid_request",replica="r1"}'] == 1.0
    assert not [name for name in samples if name.startswith("exlpool_active_requests{")]


async def test_the_pool_is_told_or_that_it_is_not_there() -> None:
    assert (await told(Metrics("r1")))[f'exlpool_pool{{{LABELS},what="queued_requests"}}'] == 0.0
    for ask in (lost, silent):
        samples = await told(Metrics("r1"), ask)
        assert samples[f'exlpool_pool{{{LABELS},what="workers_up"}}'] == 0.0


async def test_the_keys_file_is_told_where_there_is_one() -> None:
    status = KeysFileStatus(state="broken", keys=2, age_s=7.5, reloads=3, failed_reloads=1)
    metrics = Metrics("r1")
    metrics.tell_of_keys_file(lambda: status)
    samples = await told(metrics)
    assert samples['exlpool_keys{replica="r1"}'] == 2.0
    assert samples['exlpool_keys_file_broken{replica="r1"}'] == 1.0
    assert samples['exlpool_keys_file_age_seconds{replica="r1"}'] == 7.5
    assert samples['exlpool_keys_file_reloads_total{outcome="ok",replica="r1"}'] == 3.0
    assert samples['exlpool_keys_file_reloads_total{outcome="failed",replica="r1"}'] == 1.0
    status = replace(status, state="current")
    assert (await told(metrics))['exlpool_keys_file_broken{replica="r1"}'] == 0.0
    status = replace(status, state="none")
    assert not [name for name in await told(metrics) if name.startswith("exlpool_keys")]


def test_several_observers_hear_the_same() -> None:
    class Remembers(Unobserved):
        def __init__(self) -> None:
            self.heard: list[object] = []

        def started(self, model: str) -> None:
            self.heard.append(model)

        def first_tokens(self, model: str, after_s: float) -> None:
            self.heard.append(after_s)

        def later_tokens(self, model: str, gap_s: float, tokens: int) -> None:
            self.heard.append(tokens)

        def ended(self, record: RequestRecord) -> None:
            self.heard.append(record)

    both = Remembers(), Remembers()
    observers = Observers(*both)
    observers.started("m")
    observers.first_tokens("m", 0.5)
    observers.later_tokens("m", 0.1, 3)
    observers.ended(RECORD)
    assert both[0].heard == both[1].heard == ["m", 0.5, 3, RECORD]
