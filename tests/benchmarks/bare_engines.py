"""CPU engines in processes of their own, without a pool: what the machine itself can do."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from actors.config import EngineConfig
from actors.engines.base import EngineJob
from actors.paging.hashes import page_hashes
from actors.sampling import SamplingParams

Prompts = Sequence[tuple[int, ...]]
LOAD_TIMEOUT_S = 120.0


def _serve(link: Connection, model: Path | None) -> None:
    """In a process of its own: load an engine, then run the jobs of every message, until None comes."""
    from actors.engines.cpu import CpuEngine

    engine = CpuEngine(EngineConfig(engine="cpu", model=model))
    engine.load(lambda _: None)
    params = SamplingParams(temperature=0.0, ignore_eos=True)
    link.send(None)
    while (message := link.recv()) is not None:
        prompts, tokens = message
        started_s = time.process_time()
        for number, prompt in enumerate(prompts):
            names = page_hashes(prompt)
            engine.submit(
                EngineJob(
                    job_id=number, token_ids=prompt, page_hashes=names, max_new_tokens=tokens, seed=0, params=params
                )
            )
        while engine.has_work():
            engine.step()
        link.send(time.process_time() - started_s)
    engine.close()


class BareEngines:
    """So many loaded engines. `run` gives each its share of the prompts at the same moment."""

    def __init__(self, count: int, model: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(count)]
        self._links = [ours for ours, _ in pairs]
        self._processes = [context.Process(target=_serve, args=(theirs, model), daemon=True) for _, theirs in pairs]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        for link in self._links:
            if not link.poll(LOAD_TIMEOUT_S):
                raise TimeoutError("A bare engine did not load in time.")
            link.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for link in self._links:
            link.send(None)
        for process in self._processes:
            process.join()

    def run(self, prompts: Prompts, tokens: int) -> tuple[float, float]:
        """Tokens per second of all together, and CPU microseconds per token."""
        count = len(self._links)
        started_s = time.perf_counter()
        for number, link in enumerate(self._links):
            link.send((prompts[number::count], tokens))
        cpu_s = sum(link.recv() for link in self._links)
        total = len(prompts) * tokens
        return total / (time.perf_counter() - started_s), cpu_s / total * 1e6
