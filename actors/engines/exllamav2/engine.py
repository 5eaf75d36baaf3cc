"""One ExLlamaV2 model as an engine of the pool."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from actors.config import EngineConfig
from actors.engines.base import Capacity, EngineEvent, EngineJob, PageChanges, ProgressCallback, Started
from actors.engines.checks import check_job
from actors.engines.exllamav2.checks import check_dry_range
from actors.engines.exllamav2.generator import PoolGenerator
from actors.engines.exllamav2.grammar_filter import GrammarFilter
from actors.engines.exllamav2.job import PoolJob
from actors.engines.exllamav2.loading import LoadedModel, load_model
from actors.engines.exllamav2.recovery import cuda_is_lost, is_fatal
from actors.engines.exllamav2.track import JobTrack
from actors.engines.grammar import GrammarMask
from actors.engines.grammar_wait import GrammarWait
from actors.engines.warm_up import generate_once
from actors.errors import FatalEngineError
from actors.messages import LoadProgress, WorkerLimits
from actors.paging.resident import ResidentPages
from actors.sampling import SamplingParams

Loader = Callable[[EngineConfig, ProgressCallback], LoadedModel]


class ExLlamaV2Engine:
    """See `actors.engines.base.Engine`. Everything, loading included, happens on the one thread that owns it."""

    def __init__(self, config: EngineConfig, loader: Loader = load_model) -> None:
        self._config = config
        self._loader = loader
        self._loaded: LoadedModel | None = None
        self._tracks: dict[int, JobTrack] = {}
        self._waiting = GrammarWait()
        self._cancelled: list[int] = []
        self._resident = ResidentPages()
        """The resident pages as they were last seen."""

    def __repr__(self) -> str:
        if self._loaded is None:
            return "<ExLlamaV2Engine, not loaded>"
        return f"<ExLlamaV2Engine with {self._loaded.limits.model}: {len(self._tracks)} jobs, {self.capacity()}>"

    def load(self, progress: ProgressCallback) -> WorkerLimits:
        self._loaded = self._loader(self._config, progress)
        if self._config.warm_up:
            self._warm_up(progress)
        return self._loaded.limits

    def submit(self, job: EngineJob) -> None:
        loaded = self._model
        check_job(job, loaded.limits)
        check_dry_range(job.params)
        grammar = None if job.params.grammar is None else self._grammar_filter()
        pool_job = PoolJob(
            job,
            stop_token_ids=self._stop_token_ids(job.params),
            draft_tokens=loaded.generator.num_draft_tokens,
            vocab_size=loaded.limits.vocab_size,
            pieces=loaded.pieces,
            grammar=grammar,
        )
        track = JobTrack(job, pool_job, loaded.pieces)

        def start() -> None:
            loaded.generator.enqueue(pool_job)
            self._tracks[job.job_id] = track

        if grammar is None or job.params.grammar is None:
            start()
            return

        def start_under(mask: GrammarMask) -> None:
            grammar.use(mask)
            start()

        wanted = loaded.grammars.want(*job.params.grammar, job.completion_ids)
        self._waiting.add(job.job_id, wanted, start_under)

    def cancel(self, job_id: int) -> None:
        if job_id in self._tracks or job_id in self._waiting:
            self._cancelled.append(job_id)

    def step(self) -> list[EngineEvent]:
        """See the protocol. A CUDA error that leaves the context useless is raised as `FatalEngineError`."""
        try:
            events = self._take_cancelled()
            generator = self._model.generator
            self._waiting.move(events, idle=not generator.num_remaining_jobs())
            if generator.num_remaining_jobs():
                events += self._run(generator)
            return events
        except Exception as error:
            if is_fatal(error) or cuda_is_lost():
                raise FatalEngineError(f"CUDA is beyond repair in this process: {error}") from error
            raise

    def has_work(self) -> bool:
        return bool(self._tracks or self._waiting)

    def capacity(self) -> Capacity:
        generator, limits = self._model.generator, self._model.limits
        active = len(generator.active_jobs)
        free = len(generator.unreferenced_pages) if generator.paged else (0 if active else limits.total_pages)
        return Capacity(
            free, limits.total_pages, active, len(generator.pending_jobs) + len(self._waiting), limits.max_batch_size
        )

    def resident_pages(self) -> frozenset[bytes]:
        return self._model.generator.resident_pages()

    def page_changes(self) -> PageChanges:
        if self._loaded is None:
            self._resident.clear()
        elif self._loaded.generator.take_pages_touched():
            self._resident.replace(self._loaded.generator.resident_pages())
        return PageChanges(*self._resident.take_changes())

    def reset(self) -> None:
        for job_id in list(self._tracks):
            self._forget(job_id)
        self._waiting.clear()
        self._cancelled.clear()
        self._model.generator.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        for job_id in list(self._tracks):
            self._forget(job_id)
        self._waiting.clear()
        self._cancelled.clear()
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.grammars.close()
            loaded.unload()
            del loaded
            gc.collect()  # generator, sampler and jobs hold each other, and the cache
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @property
    def _model(self) -> LoadedModel:
        assert self._loaded is not None, "the engine is used before load() or after close()"
        return self._loaded

    def _stop_token_ids(self, params: SamplingParams) -> frozenset[int]:
        """The library knows no end-of-sequence of its own. Under a grammar one always ends the text: nothing else
        may follow a complete document."""
        eos = () if params.ignore_eos and params.grammar is None else self._model.limits.eos_token_ids
        return frozenset((*eos, *params.stop_token_ids))

    def _grammar_filter(self) -> GrammarFilter:
        limits = self._model.limits
        return GrammarFilter(limits.vocab_size, frozenset(limits.eos_token_ids))

    def _take_cancelled(self) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        self._waiting.cancel(self._cancelled, events)
        for job_id in self._cancelled:
            if job_id in self._tracks:
                track = self._forget(job_id)
                self._model.generator.cancel(track.pool_job)
                events.append(track.cancelled())
        self._cancelled.clear()
        return events

    def _forget(self, job_id: int) -> JobTrack:
        track = self._tracks.pop(job_id)
        if track.pool_job.grammar is not None:
            track.pool_job.grammar.close()
        return track

    def _run(self, generator: PoolGenerator) -> list[EngineEvent]:
        step = generator.step()
        events: list[EngineEvent] = []
        # A job is in up to three of these lists in one step: taken up, its prompt computed, its first token sampled.
        # When it is over there are two cases: the generator ended it and has its pages back, or a stop string was found
        # in the text, of which the generator knows nothing (`end` is None) and must be told.
        for job in step.started:
            events += [Started(job.job_id), *self._tracks[job.job_id].prefilled(0)]
        for job, tokens in step.prefilled:
            events += self._tracks[job.job_id].prefilled(tokens)
        for job in step.sampled:
            track = self._tracks[job.job_id]
            events += track.sampled()
            if track.over:
                self._forget(job.job_id)
                if job.end is None:
                    generator.cancel(job)
        return events

    def _warm_up(self, progress: ProgressCallback) -> None:
        """Run every kernel once that a first request would wait for, then forget what was cached."""
        progress(LoadProgress("warm-up", 0, 1))
        loaded = self._model
        generate_once(self, loaded.limits)
        if loaded.weights is not None and loaded.weights.quantised:
            loaded.generator.fit_rows()
        self.reset()
        progress(LoadProgress("warm-up", 1, 1))
