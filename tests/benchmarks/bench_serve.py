"""What HTTP costs: this server beside the plain Ray Serve streaming recipe, with the same simulated engine.

The engine's step takes 20 ms. The recipe is two deployments: an ingress that returns a StreamingResponse, and a replica
with the engine whose streaming generator, one per request, yields a chunk per token. `max_ongoing_requests` is
raised so that it can run all streams at once; everything else is Serve's default. This server is asked through Serve's
proxy, as the recipe is, and through its front's own listener.

For each number of streams, in alternating rounds, medians: tokens that arrived per second beside those wanted, time to
the first chunk, gaps between chunks (p50, p99), CPU time per token of all processes of the cluster, and of the client,
which is the same raw reader for all.

    python -m tests.benchmarks.bench_serve [--streams 1,16,64,256] [--seconds 4] [--repeat 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Any

import psutil
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import StreamingResponse

from actors.ray_session import prepare_private_cluster
from serve_app import build_app
from serve_app.config import serve_config
from tests.benchmarks.bench_streaming import CONFIG, STEP_S, PerRequestWorker, prompt_of
from tests.serve_app.running import free_port

WARM_TOKENS = 20
UNBOUNDED = 10_000
LOGICAL_CPUS = 8
"""Each of the recipe's replicas claims one, as is Serve's default, however many the machine has."""


class RecipeEngine:
    """The engine of the recipe: the same thread round the same engine."""

    async def __init__(self) -> None:  # type: ignore[misc] # Serve awaits it
        self._worker = PerRequestWorker()
        self._tickets = 0

    async def generate(self, prompt: tuple[int, ...], tokens: int) -> AsyncIterator[str]:
        self._tickets += 1
        async for text in self._worker.generate(self._tickets, prompt, tokens):
            yield text


class RecipeIngress:
    def __init__(self, engine: Any) -> None:
        self._engine = engine.options(stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self._events(await request.json()), media_type="text/event-stream")

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        async for text in self._engine.generate.remote(tuple(body["prompt"]), body["max_tokens"]):
            yield f"data: {json.dumps({'choices': [{'index': 0, 'text': text}]})}\n\n"
        yield "data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Measurement:
    tokens_per_s: float
    first_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    server_us_per_token: float
    client_us_per_token: float


@dataclass(slots=True)
class Arrivals:
    """What the streams of one round brought."""

    tokens: int
    first_s: list[float]
    gaps_s: list[float]


async def read_stream(port: int, path: str, number: int, tokens: int, arrivals: Arrivals) -> None:
    """One request over a connection of its own, read as raw as can be."""
    body = {"model": "sim", "prompt": prompt_of(number), "max_tokens": tokens, "stream": True, "temperature": 0}
    payload = json.dumps({**body, "ignore_eos": True}).encode()
    head = f"POST {path}/v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        sent_s = before_s = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode() + payload)
        status = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in status.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"{status!r} {await reader.read()!r}")
        seen, tail = 0, b""
        while data := await reader.read(65536):
            now_s = time.perf_counter()
            text = tail + data
            tail = text[-16:]
            found = text.count(b'"text": "') - tail.count(b'"text": "')
            if found:
                arrivals.first_s.append(now_s - sent_s) if not seen else arrivals.gaps_s.append(now_s - before_s)
                before_s, seen = now_s, seen + found
        if b"[DONE]" not in tail:
            raise RuntimeError(f"a stream was cut off: {tail!r}")
        arrivals.tokens += tokens
    finally:
        writer.close()


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def measure(port: int, path: str, streams: int, tokens: int) -> Measurement:
    own = psutil.Process()
    servers = own.children(recursive=True)
    arrivals = Arrivals(0, [], [])
    server_s, client_s, started_s = cpu_s(servers), cpu_s([own]), time.perf_counter()
    await asyncio.gather(*(read_stream(port, path, number, tokens, arrivals) for number in range(streams)))
    elapsed_s = time.perf_counter() - started_s
    server_s, client_s = cpu_s(servers) - server_s, cpu_s([own]) - client_s
    gaps = sorted(arrivals.gaps_s) or [0.0]
    return Measurement(
        tokens_per_s=arrivals.tokens / elapsed_s,
        first_ms=statistics.median(arrivals.first_s) * 1e3,
        gap_p50_ms=gaps[len(gaps) // 2] * 1e3,
        gap_p99_ms=gaps[int(len(gaps) * 0.99)] * 1e3,
        server_us_per_token=server_s / arrivals.tokens * 1e6,
        client_us_per_token=client_s / arrivals.tokens * 1e6,
    )


async def compare(targets: dict[str, tuple[int, str]], arguments: argparse.Namespace) -> None:
    tokens = int(arguments.seconds / STEP_S)
    for port, path in targets.values():
        await measure(port, path, 4, WARM_TOKENS)
    print(
        f"{'streams':>7} {'server':24} {'wanted/s':>9} {'got/s':>9} {'first ms':>9} {'gap p50':>8} {'gap p99':>8} "
        f"{'server us/token':>16} {'client':>7}"
    )
    for streams in arguments.streams:
        rounds: dict[str, list[Measurement]] = {name: [] for name in targets}
        for _ in range(arguments.repeat):
            for name, (port, path) in targets.items():
                rounds[name].append(await measure(port, path, streams, tokens))
        for name, measured in rounds.items():
            got, first, p50, p99, server, client = (
                statistics.median(getattr(one, field.name) for one in measured) for field in fields(Measurement)
            )
            print(
                f"{streams:7} {name:24} {streams / STEP_S:9.0f} {got:9.0f} {first:9.1f} {p50:8.1f} {p99:8.1f} "
                f"{server:16.0f} {client:7.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--streams", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16, 64, 256]
    )
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    prepare_private_cluster()
    ray.init(address="local", num_cpus=LOGICAL_CPUS, include_dashboard=False, logging_level=logging.ERROR)
    port, direct_port = free_port(), free_port()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": port},
        logging_config={"log_level": "ERROR"},
    )
    engine = CONFIG.model_dump(exclude={"model"})
    ours = serve_config(
        name="sim",
        workers=1,
        cpus_per_worker=0.1,
        access_log=False,
        listen={"port": direct_port},
        fronts={"max_replicas": 1},
        **engine,
    )
    serve.run(build_app(ours), name="exlpool", route_prefix="/exlpool")
    recipe = serve.deployment(max_ongoing_requests=UNBOUNDED)
    serve.run(recipe(RecipeIngress).bind(recipe(RecipeEngine).bind()), name="recipe", route_prefix="/recipe")
    targets = {
        "exlpool, own listener": (direct_port, ""),
        "exlpool, Serve's proxy": (port, "/exlpool"),
        "recipe": (port, "/recipe"),
    }
    asyncio.run(compare(targets, arguments))


if __name__ == "__main__":
    main()
