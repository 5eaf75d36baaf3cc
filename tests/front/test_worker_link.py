"""A front's link to a worker: what is given up on its way to the worker costs it nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import ray

from actors.config import EngineConfig
from actors.front.attempt_output import Inbox
from actors.front.worker_link import WorkerLink
from actors.messages import GenerationRequest, WorkerReady
from actors.sampling import sampling_params
from actors.worker.worker import Worker

WAIT_S = 20.0
STEP_S = 0.01
LONG_TOKENS = 6000
"""A completion that would keep the worker stepping for a minute."""


def request(ticket: int, tokens: int) -> GenerationRequest:
    return GenerationRequest(
        ticket=ticket,
        request_id=f"request-{ticket}",
        attempt=1,
        token_ids=(10, 11, 12 + ticket),
        max_new_tokens=tokens,
        seed=0,
        params=sampling_params(temperature=0.0),
    )


async def _ready(worker: Any) -> WorkerReady:
    stream = worker.reports.options(num_returns="streaming", _generator_backpressure_num_objects=4).remote()
    try:
        async for reference in stream:
            news = await reference
            if isinstance(news, WorkerReady):
                return news
        raise AssertionError("the worker ended before it was ready")
    finally:
        ray.cancel(stream)


async def _idle(worker: Any) -> bool:
    before = await worker.heartbeat.remote()
    await asyncio.sleep(10 * STEP_S)  # the time that ten steps would take
    after = await worker.heartbeat.remote()
    return bool(after.steps == before.steps and after.step_age_s == 0.0)


@pytest.mark.ray
async def test_a_request_that_is_given_up_before_it_was_sent_never_runs(ray_cluster: None) -> None:
    config = EngineConfig(engine="simulated", simulated={"step_s": STEP_S, "context_tokens": 8192})
    worker: Any = ray.remote(Worker).options(num_cpus=0).remote("slot", config)
    try:
        news = await asyncio.wait_for(_ready(worker), WAIT_S)
        link = WorkerLink("front", news.worker_id, worker)
        kept = Inbox(news.worker_id, whole=True)
        await link.start(request(1, tokens=5), kept)
        await asyncio.sleep(0)  # the call that carries the first one goes out
        await link.start(request(2, tokens=LONG_TOKENS), Inbox(news.worker_id, whole=True))
        link.cancel(2)
        text, *_, finished = await asyncio.wait_for(kept.take(), WAIT_S)
        assert text
        assert finished is not None
        deadline_s = time.monotonic() + WAIT_S
        while not await _idle(worker):
            assert time.monotonic() < deadline_s, "the worker runs a request that was given up"
        link.shut_down()
        await link.wait_closed()
    finally:
        ray.kill(worker)
