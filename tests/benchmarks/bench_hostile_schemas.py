"""What ordinary clients notice of grammars that nobody can compile, and what becomes of the front's memory.

A real server with the CPU engine and the built-in model. Streams of plain text, and a few with an ordinary schema that
the server has not seen before, run in turns without and with clients that send nothing but hostile grammars: endless
intersections as a schema and as Lark, a regex of nested repetitions, and a grammar that looks harmless until six
characters are written, so that it gets as far as the engine. Each is new to the server, with `timeout_s` 5.

    python -m tests.benchmarks.bench_hostile_schemas [--seconds 8] [--rounds 3] [--streams 4] [--hostile 3]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray import serve

from actors.ray_session import prepare_private_cluster
from serve_app import build_app
from serve_app.config import serve_config
from tests.bombs import BOMBS, ENDLESS_BEHIND_SIX
from tests.serve_app.running import free_port

MODEL = "tiny"
TOKENS = 24
TIMEOUT_S = 5.0
HOSTILE_LIMIT_S = 30.0
READY_S = 120.0
MIB = 1024 * 1024


@dataclass(slots=True)
class Seen:
    """What the clients of the turns of one kind saw."""

    plain_ms: list[float] = field(default_factory=list)
    schema_ms: list[float] = field(default_factory=list)
    hostile_ms: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)


def hostile_bodies() -> Iterator[dict[str, Any]]:
    """For ever new ones: the server remembers what it has refused."""
    for number in itertools.count():
        schema = json.loads(BOMBS["schema"][1].replace("a0", f"k{number}"))
        yield {"guided_json": schema}
        yield {"guided_grammar": BOMBS["lark"][1].replace("a0", f"k{number}")}
        yield {"guided_regex": f"k{number}{BOMBS['regex'][1]}"}
        yield {"guided_grammar": ENDLESS_BEHIND_SIX.replace("/z/", f"/z{number}/")}


def ordinary_schema(number: int) -> dict[str, Any]:
    properties = {f"name{number}": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}}
    return {"type": "object", "properties": properties, "required": list(properties)}


async def ask(port: int, body: dict[str, Any]) -> tuple[str, float]:
    """The status of the answer, and milliseconds to the first of its text, or to its end."""
    payload = json.dumps({"model": MODEL, "prompt": "Once upon a time,", "max_tokens": TOKENS, **body}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        sent_s = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode() + payload)
        status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        await reader.read(1)
        first_ms = (time.perf_counter() - sent_s) * 1e3
        await reader.read()
        return status, first_ms
    finally:
        writer.close()


async def ordinary_client(port: int, first: int, until_s: float, seen: Seen) -> None:
    """Every fourth of its requests has a schema."""
    for number in itertools.count(first):
        if time.perf_counter() > until_s:
            return
        schema = {"guided_json": ordinary_schema(number)} if number % 4 == 3 else {}
        status, first_ms = await ask(port, {"stream": True, "seed": number, **schema})
        if status != "200":
            raise RuntimeError(f"an ordinary request was answered with {status}")
        (seen.schema_ms if schema else seen.plain_ms).append(first_ms)


async def hostile_client(port: int, bodies: Iterator[dict[str, Any]], until_s: float, seen: Seen) -> None:
    while time.perf_counter() < until_s:
        status, passed_ms = "no answer", HOSTILE_LIMIT_S * 1e3
        with suppress(TimeoutError):
            async with asyncio.timeout(HOSTILE_LIMIT_S):
                status, passed_ms = await ask(port, {**next(bodies), "timeout_s": TIMEOUT_S})
        seen.hostile_ms.append(passed_ms)
        seen.answers[status] += 1


def memory_mib() -> tuple[float, float, float]:
    """The front's own memory (USS), that of the processes below it, and that of all grammars' processes."""
    front = below = grammars = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if "HttpFront" in process.name() or "HttpFront" in " ".join(process.cmdline()):
                front += process.memory_full_info().uss
                below += sum(child.memory_full_info().uss for child in process.children(recursive=True))
            elif "actors.request.grammar.process" in process.cmdline():
                grammars += process.memory_full_info().uss
    return front / MIB, below / MIB, grammars / MIB


async def watch_memory(peaks: list[float]) -> None:
    while True:
        now = await asyncio.to_thread(memory_mib)
        peaks[:] = [max(pair) for pair in zip(peaks, now, strict=True)]
        await asyncio.sleep(0.25)


async def run(port: int, arguments: argparse.Namespace) -> None:
    bodies = hostile_bodies()
    kinds = {"without": Seen(), "with": Seen()}
    numbers = itertools.count(0, 100_000)
    print(f"{'turn':>4} {'hostile':8} {'front USS MiB':>14} {'peak':>6} {'below peak':>11} {'grammars peak':>14}")
    for turn in range(arguments.rounds * 2):
        kind = ("without", "with")[turn % 2]
        seen, until_s, peaks = kinds[kind], time.perf_counter() + arguments.seconds, [0.0, 0.0, 0.0]
        watching = asyncio.create_task(watch_memory(peaks))
        async with asyncio.TaskGroup() as group:
            for _ in range(arguments.streams):
                group.create_task(ordinary_client(port, next(numbers), until_s, seen))
            for _ in range(arguments.hostile if kind == "with" else 0):
                group.create_task(hostile_client(port, bodies, until_s, seen))
        watching.cancel()
        front, *_ = memory_mib()
        print(f"{turn:4} {kind:8} {front:14.0f} {peaks[0]:6.0f} {peaks[1]:11.0f} {peaks[2]:14.0f}", flush=True)
    print(f"\n{'hostile':8} {'what':16} {'requests':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    for kind, seen in kinds.items():
        rows = {"first plain text": seen.plain_ms, "first of schema": seen.schema_ms, "hostile answer": seen.hostile_ms}
        for what, times in rows.items():
            if times:
                times.sort()
                p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
                print(f"{kind:8} {what:16} {len(times):8} {p50:8.1f} {p99:8.1f} {times[-1]:8.1f}")
    print(f"answers to hostile requests: {dict(kinds['with'].answers)}")


async def until_ready(port: int) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            with suppress(OSError):
                if (await ask(port, {}))[0] == "200":
                    return
            await asyncio.sleep(0.5)


async def measure(port: int, arguments: argparse.Namespace) -> None:
    await until_ready(port)
    await ask(port, {"guided_regex": "[a-z]{4}"})  # starts what is started late
    await run(port, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of one turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns without, and as many with")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--hostile", type=int, default=3, help="clients that send hostile grammars")
    arguments = parser.parse_args()
    prepare_private_cluster()
    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level=logging.ERROR)
    port = free_port()
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    config = serve_config(
        name=MODEL,
        engine="cpu",
        workers=1,
        cpus_per_worker=0.1,
        access_log=False,
        listen={"port": port},
        fronts={"max_replicas": 1},
    )
    serve.run(build_app(config), name="exlpool", route_prefix="/exlpool")
    asyncio.run(measure(port, arguments))


if __name__ == "__main__":
    main()
