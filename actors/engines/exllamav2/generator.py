"""The library's dynamic generator with a bounded prefill and a decode step that moves no more than it must.

Page table, job start, prefill and speculative decoding are the library's own (0.3.2).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from exllamav2.generator import ExLlamaV2DynamicGenerator

from actors.engines.exllamav2.job import PoolJob
from actors.engines.exllamav2.padding import find_pad_from, rows_of_step
from actors.engines.exllamav2.sampling import BatchSampler
from actors.paging.hashes import PAGE_TOKENS

_FLOWING_TOKENS = 5
_FILLING_TOKENS = 16384
"""Prompt tokens of a step that keeps no flowing stream waiting: enough for a batch of short prompts, and few enough
that the first of many long ones soon get their first tokens."""


@dataclass(frozen=True, slots=True)
class PrefillBounds:
    """How much prompt a step may compute: `chunk_tokens` in `max_prefills` prompts beside flowing streams, and
    `max_chunk_tokens` of a prompt when none would have to wait for it."""

    chunk_tokens: int
    max_prefills: int
    max_chunk_tokens: int


@dataclass(slots=True)
class GeneratorStep:
    """What one step did: jobs that started, and prompt tokens that it computed for a job."""

    started: list[PoolJob] = field(default_factory=list)
    prefilled: list[tuple[PoolJob, int]] = field(default_factory=list)
    sampled: list[PoolJob] = field(default_factory=list)


class PoolGenerator(ExLlamaV2DynamicGenerator):  # type: ignore[misc]
    """Steps `PoolJob`s. Their sampled ids and ends are on the jobs."""

    def __init__(self, *, bounds: PrefillBounds, **arguments: Any) -> None:
        super().__init__(max_chunk_size=bounds.max_chunk_tokens, **arguments)
        self._bounds = bounds
        self._sampler = self._make_sampler()
        self.pages_touched = True
        """Whether anything happened since `take_pages_touched` that may make a page resident or lose one: a job got or
        gave back its pages, a prompt was computed, a page of output filled, tokens were taken back."""
        self.pad_from: int | None = None
        """See `actors.engines.exllamav2.padding`."""
        self._plain = self.paged and not self.num_draft_tokens and not self.model.config.arch.lm.mrope

    def __repr__(self) -> str:
        return (
            f"<PoolGenerator: {len(self.active_jobs)} jobs run, {len(self.pending_jobs)} wait, "
            f"{len(self.unreferenced_pages)} of {len(self.all_pages)} pages free>"
        )

    def _make_sampler(self) -> BatchSampler:
        shape = (self.max_batch_size, 1, self.padded_vocab_size)
        pinned = torch.cuda.is_available()
        return BatchSampler(
            rows=torch.empty(shape, dtype=torch.float, pin_memory=True) if pinned else self.logits_pinned,
            vocab_size=self.model.config.vocab_size,
            known_tokens=self.tokenizer.get_vocab_size(),
            threads=self.sampling_pool if self.max_sampling_threads > 1 else None,
            min_threaded_rows=self.min_sampling_threads,
        )

    @torch.inference_mode()
    def step(self) -> GeneratorStep:
        """`iterate` of the library, in the terms of the pool."""
        step = GeneratorStep()
        results: list[dict[str, Any]] = []
        self.iterate_start_jobs(results)
        step.started = [result["job"] for result in results]
        self._prefill(step)
        step.sampled = [job for job in self.active_jobs if job.is_prefill_done()]
        # Decoding is done here, with no more moved than must be, wherever each job has one token in a step; where
        # tokens are drafted, pages are not used, or positions have more than one dimension, the library does it.
        if self._plain:
            self._decode(step.sampled)
        elif self.draft_model:
            self.iterate_gen(results, self.iterate_draftmodel_gen(results))
        elif self.use_ngram_draft:
            # The library looks at the last tokens of every job without asking whether there are so many.
            short = any(len(job.sequences[0].sequence_ids) < self.max_ngram - 1 for job in step.sampled)
            self.iterate_gen(results, None if short else self.iterate_ngram_gen(results))
        else:
            self.iterate_gen(results)
        return step

    def forget(self) -> None:
        """Drop all jobs and all cached pages, whatever state a failed step left them in."""
        self.pending_jobs.clear()
        self.active_jobs.clear()
        if self.filter_queue is not None:
            self.filter_queue.clear()
        self.reset_page_table()
        self.pages_touched = True

    def _prefill(self, step: GeneratorStep) -> None:
        """Compute prompts in order of arrival: within the bounds where a stream that flows would have to wait, else
        as much as soon fills the batch. A stream counts as flowing from its fifth token on, so that jobs which arrive
        together start together."""
        # Nobody's stream flows: prompts fill the batch, in large chunks.
        # A stream flows, and would stand still for as long as this takes: `chunk_tokens` in all, shared by up to
        # `max_prefills` prompts, in whole pages. A prompt that found its pages resident took no time, so the share of
        # the next is not touched; the shares of the others grow by what one leaves.
        waiting = [job for job in self.active_jobs if not job.is_prefill_done()]
        flowing = any(job.new_sampled >= _FLOWING_TOKENS for job in self.active_jobs)
        if not flowing:
            left = _FILLING_TOKENS
            for job in waiting:
                if left <= 0:
                    return
                left -= self._prefill_job(job, self._bounds.max_chunk_tokens, step)
            return
        left = self._bounds.chunk_tokens
        prompts = min(self._bounds.max_prefills, len(waiting), left // PAGE_TOKENS)
        for job in waiting:
            if not prompts:
                return
            share = max(left // prompts // PAGE_TOKENS, 1) * PAGE_TOKENS
            computed = self._prefill_job(job, share, step)
            if computed:
                left, prompts = max(left - computed, 0), prompts - 1

    def _prefill_job(self, job: PoolJob, chunk_tokens: int, step: GeneratorStep) -> int:
        self.max_chunk_size = chunk_tokens
        self.pages_touched = True
        sequence = job.sequences[0]
        position, cached = sequence.kv_position, job.cached_prompt_tokens
        job.prefill([])
        computed = int(sequence.kv_position - position - (job.cached_prompt_tokens - cached))
        step.prefilled.append((job, computed))
        return computed

    def _decode(self, jobs: Sequence[PoolJob]) -> None:
        """One token for each of `jobs`, which are all past their prompts."""
        if not jobs:
            return
        logits = self._forward(jobs)
        self._prepare_filters()
        tokens = self._sampler.sample(jobs, logits)
        now_s = time.time()
        over: list[PoolJob] = []
        for job, token in zip(jobs, tokens, strict=True):
            if job.time_first_token is None:
                job.time_first_token = now_s
            if job.receive_sample(None, token, None, None, None, False, [])[0]:
                over.append(job)
        self._release(over)

    def _forward(self, jobs: Sequence[PoolJob]) -> torch.Tensor:
        """Logits of the next position of every job: (jobs, 1, padded vocabulary), on the device."""
        positions = [job.sequences[0].kv_position for job in jobs]
        block_index = torch.zeros((len(jobs), max(positions) // PAGE_TOKENS + 1), dtype=torch.int32)
        for row, (job, position) in enumerate(zip(jobs, positions, strict=True)):
            sequence = job.sequences[0]
            blocks = job.get_block_index(sequence, position + 1)
            block_index[row, : blocks.shape[0]] = blocks
            page = sequence.allocated_pages[position // PAGE_TOKENS]
            assert page.ref_count == 1, "a page that is being written must not be shared"
            page.sequence[0, page.kv_position] = job.last_token_id
            page.kv_position += 1
            page.can_revert = False
        lengths = torch.tensor(positions, dtype=torch.int32)
        token_ids = torch.tensor([[job.last_token_id] for job in jobs], dtype=torch.long)
        extra = rows_of_step(len(jobs), self.pad_from) - len(jobs)
        if extra:  # the copies write what the first row writes, to the same place
            block_index, lengths, token_ids = (
                torch.cat([rows, rows[:1].expand(extra, *rows.shape[1:])]) for rows in (block_index, lengths, token_ids)
            )
        return self._logits(token_ids, block_index, lengths)[: len(jobs)]

    def _logits(self, token_ids: torch.Tensor, block_index: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model.forward_chunk(
            input_ids=token_ids,
            attn_params=self.get_paged_params(len(token_ids), block_index, lengths, 1),
            cache=self.cache,
            loras=self.current_loras,
            indexed_embeddings=[],
        )["logits"]
        return logits

    @torch.inference_mode()
    def fit_rows(self) -> None:
        """Find out by trying whether small steps are worth filling up. Only without jobs; spoils all cached pages."""

        def run(rows: int) -> None:
            token_ids = torch.zeros((rows, 1), dtype=torch.long)
            blocks = torch.zeros((rows, 1), dtype=torch.int32)
            self._logits(token_ids, blocks, torch.zeros(rows, dtype=torch.int32))
            if torch.cuda.is_available():
                torch.cuda.synchronize()

        if self._plain:
            self.pad_from = find_pad_from(run, self.max_batch_size)

    def _prepare_filters(self) -> None:
        """Have grammar masks computed while the GPU works."""
        if self.filter_queue:
            for mask, _ in self.filter_queue:
                mask.background_prepare_logit_mask(self.filter_pool)
            self.filter_queue.clear()

    def _release(self, over: Sequence[PoolJob]) -> None:
        for job in over:
            job.deallocate_pages()
            self.active_jobs.remove(job)
        if over and not self.num_remaining_jobs():
            self.defrag_cache()

    def take_pages_touched(self) -> bool:
        """Whether resident pages may have changed since the last call. False in most steps that only decode."""
        touched, self.pages_touched = self.pages_touched, False
        return touched

    def resident_pages(self) -> frozenset[bytes]:
        """Names of the pages whose keys and values are all there; a name alone is given out before they are."""
        if not self.paged:
            return frozenset()
        return frozenset(page.phash for page in self.all_pages if page.kv_position == PAGE_TOKENS)
