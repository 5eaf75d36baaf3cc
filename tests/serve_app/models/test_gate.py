"""What requests for a model go through while its pool gives way to the next one."""

from __future__ import annotations

import asyncio

import pytest

from actors.errors import NoHealthyWorker
from serve_app.models import gate as gates
from serve_app.models.gate import Gate


async def test_requests_wait_until_it_opens() -> None:
    gate = Gate("m")
    await gate.passed()
    gate.hold(60.0)
    waiting = [asyncio.create_task(gate.passed()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    assert "3 wait" in repr(gate)
    gate.open()
    await asyncio.gather(*waiting)
    await gate.passed()


async def test_nobody_waits_longer_than_said() -> None:
    gate = Gate("m")
    gate.hold(0.01)
    with pytest.raises(NoHealthyWorker, match="not there yet") as refused:
        await gate.passed()
    assert refused.value.retry_after_s is not None


async def test_no_more_wait_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MAX_HELD", 2)
    gate = Gate("m")
    gate.hold(60.0)
    waiting = [asyncio.create_task(gate.passed()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(NoHealthyWorker, match="2 requests wait"):
        await gate.passed()
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    waiting.append(asyncio.create_task(gate.passed()))
    await asyncio.sleep(0)
    gate.open()
    await asyncio.gather(*waiting[1:])


async def test_a_model_that_goes_takes_nobody() -> None:
    gate = Gate("m")
    gate.refuse()
    with pytest.raises(NoHealthyWorker, match="replaced") as refused:
        await gate.passed()
    assert refused.value.retry_after_s is not None
    gate.open()
    await gate.passed()


async def test_it_counts_who_is_inside() -> None:
    gate = Gate("m")
    with gate.entered():
        assert gate.inside == 1
    assert gate.inside == 0
