"""ExLlamaV2's own generator in a plain script beside one worker of the pool, on the same GPU with the same jobs.

    python -m tests.benchmarks.make_model /tmp/model
    python -m tests.benchmarks.bench_exllamav2 /tmp/model
    python -m tests.benchmarks.bench_exllamav2 /tmp/model --parts throughput --concurrency 1 64 --repetitions 1

Both are loaded at once, in two processes, and take turns. Parts: `cold` (load, first token), `throughput` (tokens/s at
each number of concurrent jobs), `equal` (completions for equal seeds, engine and library over the same weights),
`profile` (a decode step in its parts), `latency` (gaps of running streams while 8k prompts arrive).
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from actors import Pool
from tests.benchmarks.bench_exllamav2_pool import (
    CONTEXT_TOKENS,
    MAX_BATCH_SIZE,
    pool_latencies,
    run_pool,
    run_streams,
    start_pool,
)
from tests.benchmarks.bench_exllamav2_profile import (
    Profile,
    copy_times,
    engine_over,
    profile_engine,
    profile_raw,
    run_engine,
)
from tests.benchmarks.bench_exllamav2_raw import SAMPLERS, RawModel, random_jobs, raw_latencies

PARTS = ("cold", "throughput", "equal", "profile", "latency")
CONSOLE = Console(width=110)
PROMPT_TOKENS = 96
LONG_PROMPT_TOKENS = 8192
STREAMS = 32
LONG_PROMPTS = 5


def new_tokens(concurrency: int) -> int:
    """Long enough for a run of a second or two."""
    return 256 if concurrency < 4 else 192 if concurrency < 16 else 128


def throughput(raw: RawModel, pool: Pool, sampler: str, options: argparse.Namespace) -> Table:
    table = Table(title=f"tokens/s, {sampler} {SAMPLERS[sampler]}, {PROMPT_TOKENS} prompt tokens")
    for heading in (
        "jobs",
        "new tokens",
        "script",
        "pool",
        "pool/script",
        "of all turns",
        "streamed",
        "streamed/script",
    ):
        table.add_column(heading, justify="right")
    for count in options.concurrency:
        row = [str(count), str(new_tokens(count)), *_rates(raw, pool, sampler, count, options)]
        table.add_row(*row)
        print(f"  {sampler} {row}", flush=True)
    return table


def _rates(raw: RawModel, pool: Pool, sampler: str, count: int, options: argparse.Namespace) -> list[str]:
    turns: list[tuple[float, float, float]] = []
    for turn in range(options.repetitions + 1):
        jobs = random_jobs(3 * count, PROMPT_TOKENS, new_tokens(count) if turn else 16, seed=1000 * count + turn)
        raw_s = raw.run(jobs[:count], sampler).seconds
        pool_s = run_pool(pool, jobs[count : 2 * count], sampler)
        streamed_s = run_streams(pool, jobs[2 * count :], sampler) if count in options.streamed else float("nan")
        turns.append((raw_s, pool_s, streamed_s))
    del turns[0]  # the first one warms up
    raw_s, pool_s, streamed_s = (statistics.median(side) for side in zip(*turns, strict=True))
    tokens = count * new_tokens(count)
    ratios = [raw_s / pool_s for raw_s, pool_s, _ in turns]
    told = [f"{tokens / raw_s:,.1f}", f"{tokens / pool_s:,.1f}", f"{statistics.median(ratios):.3f}"]
    told.append(" ".join(f"{ratio:.3f}" for ratio in ratios))
    if count not in options.streamed:
        return [*told, "", ""]
    return [*told, f"{tokens / streamed_s:,.1f}", f"{raw_s / streamed_s:.3f}"]


def equality(raw: RawModel, engine: Any, count: int) -> Table:
    table = Table(title=f"{count} jobs with equal seeds, over the same weights, submitted at once")
    for heading in ("sampler", "completions equal", "equal tokens", "plain script", "engine", "ratio"):
        table.add_column(heading, justify="right")
    for sampler in SAMPLERS:
        for jobs in (random_jobs(count, PROMPT_TOKENS, tokens, seed=77) for tokens in (8, 128)):  # the first warms up
            raw.generator.reset_page_table()
            theirs = raw.run(jobs, sampler)
            engine.reset()
            ours = run_engine(engine, jobs, sampler)
        pairs = list(zip(ours.completions, theirs.completions, strict=True))
        equal = sum(mine == other for mine, other in pairs)
        tokens = sum(a == b for mine, other in pairs for a, b in zip(mine, other, strict=False))
        rates = [theirs.tokens / theirs.seconds, theirs.tokens / ours.seconds]
        table.add_row(
            sampler,
            f"{equal} of {count}",
            f"{tokens / theirs.tokens:.1%}",
            *(f"{rate:,.1f}" for rate in rates),
            f"{rates[1] / rates[0]:.3f}",
        )
    return table


def profiles(raw: RawModel, engine: Any, count: int) -> list[Table]:
    tables = []
    for sampler in SAMPLERS:
        jobs = random_jobs(count, PROMPT_TOKENS, 200, seed=5)
        sides = {
            "plain script": profile_raw(raw, jobs, sampler, 40),
            "engine": profile_engine(engine, jobs, sampler, 40),
        }
        tables.append(_profile_table(f"a decode step of {count} jobs, {sampler}, ms", sides))
    table = Table("way", "ms", title=f"the logits of {count} jobs to the host")
    for way, spent_ms in copy_times(count, raw.generator.padded_vocab_size).items():
        table.add_row(way, f"{spent_ms:.2f}")
    return [*tables, table]


def _profile_table(title: str, sides: dict[str, Profile]) -> Table:
    table = Table("side", "step", "GPU forward", "host, inside the step", title=title)
    for side, profile in sides.items():
        parts = ", ".join(f"{name} {spent:.2f}" for name, spent in profile.parts.items())
        table.add_row(side, f"{profile.step_ms:.2f}", f"{profile.gpu_ms:.2f}", parts)
    return table


def latencies(raw: RawModel, pool: Pool, every_s: float) -> Table:
    streams = random_jobs(STREAMS, PROMPT_TOKENS, 1500, seed=1)
    arrivals = random_jobs(LONG_PROMPTS, LONG_PROMPT_TOKENS, 8, seed=2)
    title = (
        f"{STREAMS} running streams, an {LONG_PROMPT_TOKENS}-token prompt every {every_s:g} s, {LONG_PROMPTS} in all"
    )
    table = Table(title=title)
    for heading in ("side", "gap p50 ms", "p90", "p99", "max", "first token of a long prompt, s: median", "max"):
        table.add_column(heading, justify="right")
    raw.generator.reset_page_table()
    sides = {
        "plain script": raw_latencies(raw, streams, arrivals, every_s),
        "pool": asyncio.run(pool_latencies(pool, streams, arrivals, every_s)),
    }
    for side, found in sides.items():
        gaps_ms = torch.tensor(found.gaps) * 1e3
        shares = [f"{float(torch.quantile(gaps_ms, share)):.1f}" for share in (0.5, 0.9, 0.99, 1.0)]
        first = found.first_token_s
        table.add_row(side, *shares, f"{statistics.median(first):.2f}", f"{max(first):.2f}")
    return table


def cold(stages: list[tuple[str, float]], pool: Pool, raw: RawModel, raw_first_s: float) -> Table:
    job = random_jobs(1, PROMPT_TOKENS, 4, seed=3)[0]
    start_s = time.perf_counter()
    for delta in pool.stream(job.token_ids, max_new_tokens=4, ignore_eos=True):
        if delta.token_ids:
            break
    first_s = time.perf_counter() - start_s
    table = Table("what", "s", title="from cold (weights in the page cache)")
    table.add_row("plain script: load", f"{raw.load_s:.1f}")
    table.add_row("plain script: load and warm-up", f"{raw.ready_s:.1f}")
    table.add_row("plain script: first token of a first job", f"{raw_first_s:.3f}")
    for stage, at_s in stages:
        table.add_row(f"pool: {stage} after", f"{at_s:.1f}")
    table.add_row("pool: first token of a first request", f"{first_s:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 16, 32, 33, 64, 128])
    parser.add_argument("--streamed", type=int, nargs="*", default=[1, 32, 64], help="numbers of jobs to stream too")
    parser.add_argument("--samplers", nargs="+", choices=list(SAMPLERS), default=["chat"])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cache-tokens", type=int, default=131072)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="jobs of the parts equal and profile")
    parser.add_argument("--arrive-every-s", type=float, default=1.0)
    options = parser.parse_args()
    model_dir = options.model.absolute()
    tables: list[Table] = []
    pool, stages = start_pool(model_dir, options.cache_tokens)
    with pool:
        raw = RawModel(
            model_dir,
            cache_tokens=options.cache_tokens,
            context_tokens=CONTEXT_TOKENS,
            max_batch_size=MAX_BATCH_SIZE,
        )
        raw_first_s = raw.run(random_jobs(1, PROMPT_TOKENS, 1, seed=3), "chat").seconds
        parts = {
            "cold": lambda: [cold(stages, pool, raw, raw_first_s)],
            "throughput": lambda: [throughput(raw, pool, sampler, options) for sampler in options.samplers],
            "latency": lambda: [latencies(raw, pool, options.arrive_every_s)],
        }
        tables += _run(parts, options.parts)
        engine = engine_over(raw, model_dir, MAX_BATCH_SIZE)
        parts = {
            "equal": lambda: [equality(raw, engine, count) for count in options.batches],
            "profile": lambda: [table for count in options.batches for table in profiles(raw, engine, count)],
        }
        tables += _run(parts, options.parts)
    CONSOLE.print(f"\n{torch.cuda.get_device_name(0)}, torch {torch.__version__}, {model_dir}")
    for table in tables:
        CONSOLE.print(table)


def _run(parts: dict[str, Any], wanted: Sequence[str]) -> list[Table]:
    tables: list[Table] = []
    for name, part in parts.items():
        if name in wanted:
            start_s = time.perf_counter()
            made = part()
            for table in made:
                CONSOLE.print(table)
            print(f"  {name}: {time.perf_counter() - start_s:.1f} s", flush=True)
            tables += made
    return tables


if __name__ == "__main__":
    main()
