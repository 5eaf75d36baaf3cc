"""The listener by itself, without Serve: how it ends."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn

from serve_app.edge import listener as listeners
from tests.serve_app.edge.listening import DEADLINE_S, listening

REQUEST = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


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


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bytes, bool]:
    """The first line of an answer, and whether it says that it is the last of its connection."""
    writer.write(REQUEST)
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(length)
    return head.split(b"\r\n")[0], b"connection: close" in head.lower()


async def test_one_that_ends_answers_once_more_on_the_connections_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that keeps its connections may be sending already when it could first hear that they end."""
    monkeypatch.setattr(listeners, "LINGER_S", 0.3)
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(listening())
        connections = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(3)]
        for connection in connections[:2]:
            assert await ask(*connection) == (b"HTTP/1.1 200 OK", False)
        ending = asyncio.create_task(stack.aclose())
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    _, other = await asyncio.open_connection("127.0.0.1", listener.port)
                except OSError:
                    break
                other.close()
                await asyncio.sleep(0.01)
        for connection in connections[1:]:
            assert await ask(*connection) == (b"HTTP/1.1 200 OK", True)
            assert await connection[0].read() == b""
        async with asyncio.timeout(DEADLINE_S):
            await ending
    assert listener.failure is None
