"""The CPU engine: continuous batching over any causal language model of transformers."""

from __future__ import annotations

from collections import deque

import torch

from actors.config import EngineConfig
from actors.engines.base import Capacity, Ended, EngineEvent, EngineJob, PageChanges, ProgressCallback
from actors.engines.checks import check_job
from actors.engines.cpu.batch import Batch
from actors.engines.cpu.loading import Loaded, load
from actors.engines.grammar import GrammarMask
from actors.engines.grammar_wait import GrammarWait
from actors.engines.warm_up import generate_once
from actors.errors import EngineFailure, InvalidRequest
from actors.messages import LoadProgress, WorkerLimits
from actors.paging.table import PageTable
from actors.results import FinishReason


class CpuEngine:
    """An `Engine` (actors.engines.base) that needs no GPU.

    Jobs join and leave between steps; a step computes at most `config.chunk_tokens` prompt tokens beside one token for
    every running job. Prefixes are shared in pages as ExLlamaV2 shares them.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._loaded: Loaded | None = None
        self._batch: Batch | None = None
        self._table = PageTable(0)
        self._waiting = GrammarWait()
        self._pending: deque[tuple[EngineJob, GrammarMask | None]] = deque()
        self._live: set[int] = set()
        self._cancelled: set[int] = set()

    def __repr__(self) -> str:
        if self._loaded is None or self._batch is None:
            return "<CpuEngine, not loaded>"
        return (
            f"<CpuEngine with {self._loaded.limits.model}: {len(self._batch)} jobs run, "
            f"{len(self._pending) + len(self._waiting)} wait, "
            f"{self._table.free_pages} of {self._table.total_pages} pages free>"
        )

    def load(self, progress: ProgressCallback) -> WorkerLimits:
        self._loaded = load(self._config, progress)
        self._table = PageTable(self._loaded.limits.total_pages)
        self._batch = Batch(self._loaded, self._table, self._config.chunk_tokens)
        if self._config.warm_up:
            progress(LoadProgress("warm-up", 0, 1))
            generate_once(self, self._loaded.limits)
            self.reset()
            progress(LoadProgress("warm-up", 1, 1))
        return self._loaded.limits

    def submit(self, job: EngineJob) -> None:
        loaded = self._ready()
        check_job(job, loaded.limits)
        if job.job_id in self._live:
            raise InvalidRequest(f"Job {job.job_id} is there already.", param="job_id")
        source = job.params.grammar
        if source is None:
            self._pending.append((job, None))
        else:
            wanted = loaded.grammars.want(*source, job.completion_ids)
            self._waiting.add(job.job_id, wanted, lambda grammar: self._pending.append((job, grammar)))
        self._live.add(job.job_id)

    def cancel(self, job_id: int) -> None:
        if job_id in self._live:
            self._cancelled.add(job_id)

    @torch.inference_mode()
    def step(self) -> list[EngineEvent]:
        self._ready()
        assert self._batch is not None
        events: list[EngineEvent] = []
        if self._cancelled:
            self._end_cancelled(self._batch, events)
        self._waiting.move(events, idle=not self._pending and not len(self._batch))
        while self._pending and self._batch.start(*self._pending[0], events):
            self._pending.popleft()
        self._batch.step(events)
        self._live.difference_update(event.job_id for event in events if isinstance(event, Ended))
        return events

    def _end_cancelled(self, batch: Batch, events: list[EngineEvent]) -> None:
        self._waiting.cancel(self._cancelled, events)
        waiting = [job for job, _ in self._pending if job.job_id in self._cancelled]
        self._pending = deque(item for item in self._pending if item[0].job_id not in self._cancelled)
        events.extend(
            Ended(job_id=job.job_id, reason=FinishReason.CANCELLED, completion_tokens=0, cached_tokens=0)
            for job in waiting
        )
        batch.cancel(self._cancelled, events)
        self._cancelled.clear()

    def has_work(self) -> bool:
        return bool(self._live)

    def capacity(self) -> Capacity:
        limits, batch = self._ready().limits, self._batch
        assert batch is not None
        return Capacity(
            self._table.free_pages,
            limits.total_pages,
            len(batch),
            len(self._pending) + len(self._waiting),
            limits.max_batch_size,
        )

    def resident_pages(self) -> frozenset[bytes]:
        return self._table.resident()

    def page_changes(self) -> PageChanges:
        return PageChanges(*self._table.take_changes())

    def reset(self) -> None:
        self._table.clear()
        self._pending.clear()
        self._waiting.clear()
        self._live.clear()
        self._cancelled.clear()
        if self._loaded is not None:
            self._batch = Batch(self._loaded, self._table, self._config.chunk_tokens)

    def close(self) -> None:
        if self._loaded is not None:
            self._loaded.grammars.close()
        self._loaded = self._batch = None
        self.reset()

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise EngineFailure("The CPU engine is not loaded, or was closed.")
        return self._loaded
