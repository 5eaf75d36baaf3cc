"""The other side of `bench_exllamav2`: ExLlamaV2's own dynamic generator in a plain script, set up as its examples do.

Nothing of the pool is used here. `max_q_size=1` is the library's own advice for large batches without drafting.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from exllamav2 import ExLlamaV2, ExLlamaV2Cache, ExLlamaV2Config, ExLlamaV2Tokenizer
from exllamav2.generator import ExLlamaV2DynamicGenerator, ExLlamaV2DynamicJob, ExLlamaV2Sampler

FIRST_WORD_ID = 1000
WORDS = 20000


@dataclass(frozen=True, slots=True)
class BenchJob:
    token_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int


def random_jobs(count: int, prompt_tokens: int, max_new_tokens: int, seed: int) -> list[BenchJob]:
    """Prompts without a common beginning, so that nobody's prefix cache helps."""
    source = random.Random(seed)
    return [
        BenchJob(
            tuple(source.randrange(FIRST_WORD_ID, FIRST_WORD_ID + WORDS) for _ in range(prompt_tokens)),
            max_new_tokens,
            source.randrange(2**31),
        )
        for _ in range(count)
    ]


SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "chat": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
}
"""By the pool's names; `raw_settings` says the same to the library."""


def raw_settings(sampler: str) -> ExLlamaV2Sampler.Settings:
    if sampler == "greedy":
        return ExLlamaV2Sampler.Settings.greedy()
    return ExLlamaV2Sampler.Settings(token_repetition_penalty=1.0, **SAMPLERS[sampler])


@dataclass
class RawRun:
    seconds: float
    completions: list[list[int]] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.completions))


class RawModel:
    """Model, cache and generator, loaded as the library's examples load them."""

    def __init__(self, model_dir: Path, *, cache_tokens: int, context_tokens: int, max_batch_size: int) -> None:
        start_s = time.perf_counter()
        self.config = ExLlamaV2Config(str(model_dir))
        self.config.arch_compat_overrides(quiet=True)
        self.config.max_seq_len = context_tokens
        self.model = ExLlamaV2(self.config)
        self.cache = ExLlamaV2Cache(self.model, max_seq_len=cache_tokens, lazy=True)
        self.model.load_autosplit(self.cache)
        self.tokenizer = ExLlamaV2Tokenizer(self.config)
        self.generator = ExLlamaV2DynamicGenerator(
            model=self.model,
            cache=self.cache,
            tokenizer=self.tokenizer,
            max_batch_size=max_batch_size,
            max_q_size=1,
        )
        self.load_s = time.perf_counter() - start_s
        self.generator.warmup()
        torch.cuda.synchronize()
        self.ready_s = time.perf_counter() - start_s

    def job(self, job: BenchJob, sampler: str) -> ExLlamaV2DynamicJob:
        return ExLlamaV2DynamicJob(
            input_ids=torch.tensor([job.token_ids], dtype=torch.long),
            max_new_tokens=job.max_new_tokens,
            gen_settings=raw_settings(sampler),
            seed=job.seed,
        )

    def run(self, jobs: Sequence[BenchJob], sampler: str) -> RawRun:
        """All jobs at once, until the last one is done."""
        raw_jobs = [self.job(job, sampler) for job in jobs]
        start_s = time.perf_counter()
        for raw_job in raw_jobs:
            self.generator.enqueue(raw_job)
        while self.generator.num_remaining_jobs():
            self.generator.iterate()
        seconds = time.perf_counter() - start_s
        completions = [_completion(raw_job, job) for raw_job, job in zip(raw_jobs, jobs, strict=True)]
        return RawRun(seconds, completions)


def _completion(raw_job: ExLlamaV2DynamicJob, job: BenchJob) -> list[int]:
    ids: list[int] = raw_job.sequences[0].sequence_ids.torch()[0, len(job.token_ids) :].tolist()
    return ids


@dataclass
class Latencies:
    """Seconds. `gaps` lie between tokens of the running streams while long prompts came and were computed."""

    gaps: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)


def raw_latencies(
    raw: RawModel, streams: Sequence[BenchJob], arrivals: Sequence[BenchJob], every_s: float
) -> Latencies:
    """Long prompts enqueued every `every_s` beside running streams, in the plain loop of a script."""
    found = Latencies()
    running = {id(raw_job): raw_job for raw_job in (raw.job(job, "chat") for job in streams)}
    for raw_job in running.values():
        raw.generator.enqueue(raw_job)
    seen = dict.fromkeys(running, 0.0)
    while not all(seen.values()):
        for result in raw.generator.iterate():
            if result["stage"] == "streaming":
                seen[id(result["job"])] = time.perf_counter()
    begin_s = time.perf_counter()
    waiting = list(arrivals)
    sent_s: dict[int, float] = {}
    keep: list[Any] = []
    while waiting or sent_s:
        now_s = time.perf_counter()
        if waiting and now_s >= begin_s + every_s * (len(arrivals) - len(waiting)):
            long_job = raw.job(waiting.pop(0), "chat")
            keep.append(long_job)
            sent_s[id(long_job)] = now_s
            raw.generator.enqueue(long_job)
        results = raw.generator.iterate()
        now_s = time.perf_counter()
        for result in results:
            if result["stage"] != "streaming":
                continue
            key = id(result["job"])
            if key in seen:
                found.gaps.append(now_s - seen[key])
                seen[key] = now_s
            elif key in sent_s:
                found.first_token_s.append(now_s - sent_s.pop(key))
    raw.generator.clear_queue()
    return found
