"""Where the time of a decode step goes, for the library's own generator and for the engine, over the same weights."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from exllamav2.generator import ExLlamaV2DynamicJob

from actors.config import EngineConfig
from actors.engines.base import Emitted, EngineJob, ProgressCallback
from actors.engines.exllamav2 import ExLlamaV2Engine, cut, sampling
from actors.engines.exllamav2.job import PoolJob
from actors.engines.exllamav2.loading import LoadedModel, assemble, make_tokenizer
from actors.engines.exllamav2.track import JobTrack
from actors.engines.exllamav2.weights import Weights
from actors.paging.hashes import page_hashes
from actors.sampling import sampling_params
from tests.benchmarks.bench_exllamav2_raw import SAMPLERS, BenchJob, RawModel

WARM_STEPS = 8


def engine_over(raw: RawModel, model_dir: Path, max_batch_size: int) -> ExLlamaV2Engine:
    """An engine over the weights and the cache that `raw` has loaded. Use one of the two at a time, with its
    `reset_page_table` before."""

    def loader(config: EngineConfig, progress: ProgressCallback) -> LoadedModel:
        weights = Weights(raw.config, raw.model, raw.cache, True, raw.config.max_seq_len)
        return assemble(config, model_dir, weights, make_tokenizer(raw.config))

    engine = ExLlamaV2Engine(EngineConfig(model=model_dir, max_batch_size=max_batch_size), loader)
    engine.load(lambda _: None)
    return engine


@dataclass
class EngineRun:
    seconds: float
    completions: list[list[int]]


def run_engine(engine: ExLlamaV2Engine, jobs: Sequence[BenchJob], sampler: str) -> EngineRun:
    """All jobs at once, until the last one is done."""
    submit(engine, jobs, sampler)
    completions: list[list[int]] = [[] for _ in jobs]
    start_s = time.perf_counter()
    while engine.has_work():
        for event in engine.step():
            if isinstance(event, Emitted):
                completions[event.job_id].extend(event.token_ids)
    return EngineRun(time.perf_counter() - start_s, completions)


def submit(engine: ExLlamaV2Engine, jobs: Sequence[BenchJob], sampler: str) -> None:
    params = sampling_params(ignore_eos=True, **SAMPLERS[sampler])
    for job_id, job in enumerate(jobs):
        engine.submit(
            EngineJob(
                job_id=job_id,
                token_ids=job.token_ids,
                page_hashes=page_hashes(job.token_ids),
                max_new_tokens=job.max_new_tokens,
                seed=job.seed,
                params=params,
            )
        )


@dataclass
class Profile:
    """Milliseconds per step. `parts` are host times inside the step; `gpu_ms` runs beside them."""

    step_ms: float = 0.0
    gpu_ms: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


class _Clock:
    """Adds up the time spent inside functions that it wraps."""

    def __init__(self) -> None:
        self.spent_s: defaultdict[str, float] = defaultdict(float)
        self.events: list[tuple[Any, Any]] = []

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start_s = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.spent_s[name] += time.perf_counter() - start_s

        return timed

    def wrap_forward(self, function: Callable[..., Any]) -> Callable[..., Any]:
        timed = self.wrap("launch", function)

        def forward(*arguments: Any, **keywords: Any) -> Any:
            begin, end = _event(), _event()
            begin.record()
            result = timed(*arguments, **keywords)
            end.record()
            self.events.append((begin, end))
            return result

        return forward


def _event() -> Any:
    make: Any = torch.cuda.Event
    return make(enable_timing=True)


@contextmanager
def _patched(*targets: tuple[Any, str, Callable[..., Any]]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, replacement in targets:
            stack.enter_context(patch.object(owner, name, replacement))
        yield


def _measure(clock: _Clock, step: Callable[[], Any], steps: int) -> Profile:
    for _ in range(WARM_STEPS):
        step()
    clock.spent_s.clear()
    clock.events.clear()
    torch.cuda.synchronize()
    start_s = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    step_ms = (time.perf_counter() - start_s) / steps * 1e3
    gpu_ms = sum(begin.elapsed_time(end) for begin, end in clock.events) / steps
    return Profile(step_ms, gpu_ms, {name: spent / steps * 1e3 for name, spent in clock.spent_s.items()})


def profile_raw(raw: RawModel, jobs: Sequence[BenchJob], sampler: str, steps: int) -> Profile:
    """ "sampling" is the sum over the sampling threads, so it may exceed the step."""
    clock = _Clock()
    raw.generator.reset_page_table()
    for job in jobs:
        raw.generator.enqueue(raw.job(job, sampler))
    job_type: Any = ExLlamaV2DynamicJob
    with _patched(
        (raw.model, "forward_chunk", clock.wrap_forward(raw.model.forward_chunk)),
        (job_type, "receive_logits", clock.wrap("sampling (all threads)", job_type.receive_logits)),
        (job_type, "receive_sample", clock.wrap("tokens and text", job_type.receive_sample)),
    ):
        profile = _measure(clock, raw.generator.iterate, steps)
    raw.generator.clear_queue()
    return profile


def profile_engine(engine: ExLlamaV2Engine, jobs: Sequence[BenchJob], sampler: str, steps: int) -> Profile:
    """ "candidates" waits for the GPU; "full rows" are those that the candidates could not decide."""
    clock = _Clock()
    engine.reset()
    submit(engine, jobs, sampler)
    model = engine._model.generator.model
    with _patched(
        (model, "forward_chunk", clock.wrap_forward(model.forward_chunk)),
        (sampling, "most_likely", clock.wrap("wait, candidates to the host", sampling.most_likely)),
        (sampling, "choose", clock.wrap("sampling", cut.choose)),
        (PoolJob, "sample_row", clock.wrap("full rows (all threads)", PoolJob.sample_row)),
        (PoolJob, "receive_sample", clock.wrap("tokens", PoolJob.receive_sample)),
        (JobTrack, "sampled", clock.wrap("text and events", JobTrack.sampled)),
    ):
        profile = _measure(clock, engine.step, steps)
    engine.reset()
    return profile


def copy_times(rows: int, width: int, repeat: int = 20) -> dict[str, float]:
    """Milliseconds to bring one step's logits to the host in three ways."""
    logits = torch.randn((rows, 1, width), device="cuda", dtype=torch.half)
    pageable = torch.empty((rows, 1, width), dtype=torch.float)
    pinned = torch.empty((rows, 1, width), dtype=torch.float, pin_memory=True)
    ways: dict[str, Callable[[], Any]] = {
        "float32 rows, pageable (the library)": lambda: pageable.copy_(logits),
        "float32 rows, pinned": lambda: pinned.copy_(logits),
        "66 candidates of each row": lambda: sampling.most_likely(logits[:, 0], 66),
    }
    found = {}
    for name, way in ways.items():
        way()
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        for _ in range(repeat):
            way()
        torch.cuda.synchronize()
        found[name] = (time.perf_counter() - start_s) / repeat * 1e3
    return found
