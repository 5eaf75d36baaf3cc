"""Tokens per second of the CPU engine beside `model.generate` on the same model, batched, with the same prompts.

    python -m tests.benchmarks.bench_engine
    python -m tests.benchmarks.bench_engine --model DIR --requests 1 8 --prompt-tokens 256 --repetitions 9

Both sides are greedy, run on one thread, and make exactly the same number of tokens; repetitions alternate, so that
whatever else the machine does hits both. One side gets the whole batch at once, which is the best case for `generate`:
it can neither let a request join later nor leave sooner.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.base import Ended, EngineJob
from actors.engines.cpu import CpuEngine
from actors.paging.hashes import page_hashes
from actors.sampling import SamplingParams

Prompts = list[list[int]]
FIRST_WORD_ID = 300  # above special tokens and single bytes


def random_prompts(requests: int, prompt_tokens: int, vocab_size: int, seed: int) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    ids: Prompts = torch.randint(FIRST_WORD_ID, vocab_size, (requests, prompt_tokens), generator=generator).tolist()
    return ids


def engine_run(engine: CpuEngine, prompts: Prompts, new_tokens: int) -> None:
    params = SamplingParams(temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.submit(
            EngineJob(
                job_id=number,
                token_ids=tuple(prompt),
                page_hashes=page_hashes(prompt),
                max_new_tokens=new_tokens,
                seed=0,
                params=params,
            )
        )
    made = 0
    while engine.has_work():
        made += sum(event.completion_tokens for event in engine.step() if isinstance(event, Ended))
    if made != len(prompts) * new_tokens:
        raise RuntimeError(f"The engine made {made} tokens instead of {len(prompts) * new_tokens}.")


def generate_run(model: Any, prompts: Prompts, new_tokens: int) -> None:
    ids = torch.tensor(prompts)
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    if out.shape[1] != ids.shape[1] + new_tokens:
        raise RuntimeError(f"generate made {out.shape[1] - ids.shape[1]} tokens instead of {new_tokens}.")


def seconds(run: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


def measure(engine: CpuEngine, model: Any, vocab_size: int, requests: int, options: argparse.Namespace) -> list[str]:
    ours, theirs = [], []
    for repetition in range(options.repetitions + 1):
        # New prompts each time, so that the engine's prefix cache does not help it.
        prompts = random_prompts(requests, options.prompt_tokens, vocab_size, seed=1000 * requests + repetition)
        pair = (
            seconds(lambda prompts=prompts: engine_run(engine, prompts, options.new_tokens)),  # type: ignore[misc]
            seconds(lambda prompts=prompts: generate_run(model, prompts, options.new_tokens)),  # type: ignore[misc]
        )
        if repetition:  # the first one warms up
            ours.append(pair[0])
            theirs.append(pair[1])
    tokens = requests * options.new_tokens
    ratio = statistics.median(their / our for our, their in zip(ours, theirs, strict=True))
    rates = [tokens / statistics.median(times) for times in (ours, theirs)]
    return [str(requests), *(f"{rate:,.0f}" for rate in rates), f"{ratio:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None, help="model directory; default: the built-in model")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    library_logging: Any = transformers.logging
    library_logging.disable_progress_bar()
    library_logging.set_verbosity_error()

    engine = CpuEngine(EngineConfig(model=options.model, engine="cpu", max_batch_size=max(options.requests)))
    limits = engine.load(lambda _: None)
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(options.model or builtin_model_path(), dtype=torch.float32).eval()
    table = Table(
        title=f"{options.prompt_tokens} prompt + {options.new_tokens} new tokens, {options.repetitions} pairs"
    )
    for heading in ("requests", "CPU engine (tokens/s)", "generate (tokens/s)", "ratio"):
        table.add_column(heading, justify="right")
    for requests in options.requests:
        table.add_row(*measure(engine, model, limits.vocab_size, requests, options))
    engine.close()
    Console().print(table)


if __name__ == "__main__":
    main()
