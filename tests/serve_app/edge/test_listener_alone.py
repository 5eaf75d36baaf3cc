"""The listener by itself, without Serve: how it ends."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn

from tests.serve_app.edge.listening import DEADLINE_S, listening


async def until_failed(listener: object) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while getattr(listener, "failure") is None:  # noqa: B009 - bounded by the timeout
            await asyncio.sleep(0.01)


async def test_an_end_that_was_asked_for_is_no_failure() -> None:
    async with listening() as listener:
        assert "listening" in repr(listener)
    assert listener.failure is None


@pytest.mark.parametrize("error", [None, OSError("no more files"), KeyError("bug")])
async def test_an_end_by_itself_is_told(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for its health hears of it: Serve then starts the replica anew."""
    end = asyncio.Event()

    async def main_loop(_: uvicorn.Server) -> None:
        await end.wait()
        if error is not None:
            raise error

    monkeypatch.setattr(uvicorn.Server, "main_loop", main_loop)
    async with listening() as listener:
        assert listener.failure is None
        end.set()
        await until_failed(listener)
        assert str(listener.port) in str(listener.failure)
