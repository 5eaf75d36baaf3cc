"""The jobs that run, and what one step does to them: prefill chunks, one forward, one token for each that is ready."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from actors.engines.base import EngineEvent, EngineJob, Prefilled, Started
from actors.engines.cpu.adjust import Adjuster
from actors.engines.cpu.attention import PackedStep
from actors.engines.cpu.cache import Block, Row, RunningRows
from actors.engines.cpu.job import RunningJob
from actors.engines.cpu.loading import Loaded
from actors.engines.cpu.sampler import choose, token_logprobs
from actors.engines.grammar import GrammarMask
from actors.engines.text import CompletionText, StopStrings
from actors.errors import InvalidRequest
from actors.paging.hashes import PAGE_TOKENS, next_hash, pages_needed
from actors.paging.table import Allocation, Page, PageTable
from actors.results import FinishReason, TokenLogprobs


class Batch:
    """All running jobs with their rows and their pages of `table`. A failed step leaves it unusable; a new one takes
    its place, over the same table, cleared."""

    def __init__(self, loaded: Loaded, table: PageTable, chunk_tokens: int) -> None:
        self._model = loaded.model
        self._pool = loaded.pool
        self._pieces = loaded.pieces
        self._limits = loaded.limits
        self._chunk_tokens = chunk_tokens
        self._table = table
        self._rows = RunningRows(loaded.model.shapes, loaded.limits.max_batch_size, loaded.rows_room_tokens)
        self._prefilling: list[RunningJob] = []
        self._jobs: dict[Row, RunningJob] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, job: EngineJob, grammar: GrammarMask | None, events: list[EngineEvent]) -> bool:
        """Take a job up if a slot, its pages and room for its row are free; returns whether they were."""
        tokens = len(job.token_ids) + job.max_new_tokens
        if len(self._jobs) >= self._limits.max_batch_size or not self._rows.has_room(tokens):
            return False
        total_pages = pages_needed(tokens)
        if self._table.pages_required(job.page_hashes, total_pages) > self._table.free_pages:
            return False
        running = self._running_job(job, self._table.allocate(job.page_hashes, total_pages), grammar)
        self._jobs[running.row] = running
        self._prefilling.append(running)
        events.append(Started(job.job_id))
        return True

    def cancel(self, job_ids: set[int], events: list[EngineEvent]) -> None:
        """End those of the jobs that run."""
        for job in [job for job in self._jobs.values() if job.job.job_id in job_ids]:
            events.append(job.ended(FinishReason.CANCELLED))
            self._leave(job)

    def step(self, events: list[EngineEvent]) -> None:
        """Move every job once."""
        chunks = self._plan_prefill(events)
        blocks = self._rows.decoding()
        decoding = [self._jobs[row] for block in blocks for row in block.rows[: block.decoding]]
        if not chunks and not decoding:
            return
        logits = self._forward(blocks, decoding, chunks)
        for job in decoding:
            job.row.length += 1
            if job.row.length % PAGE_TOKENS == 0:
                self._store(job)
        ready = decoding + self._advance(chunks, events)
        self._sample(logits, ready, events)

    def _running_job(self, job: EngineJob, pages: Allocation, grammar: GrammarMask | None) -> RunningJob:
        params = job.params
        eos = () if params.ignore_eos and grammar is None else self._limits.eos_token_ids
        stop_ids = frozenset(eos) | frozenset(params.stop_token_ids)
        stops = StopStrings(params.stop) if params.stop else None
        return RunningJob(
            job,
            pages,
            self._rows.open(len(job.token_ids), len(job.token_ids) + job.max_new_tokens),
            CompletionText(self._pieces, job.token_ids, stops),
            Adjuster(job, self._limits.vocab_size, sorted(stop_ids), grammar),
            stop_ids,
        )

    def _plan_prefill(self, events: list[EngineEvent]) -> list[tuple[RunningJob, int]]:
        """Chunks of prompts, in order of start, within the step's budget.

        A page that an earlier job is about to fill is waited for instead of being computed twice.
        """
        budget = self._chunk_tokens
        chunks = []
        in_work: set[Page] = set()
        for job in self._prefilling:
            tokens = min(self._next_chunk(job, in_work), budget) if budget else 0
            if tokens:
                chunks.append((job, tokens))
                budget -= tokens
            in_work.update(page for page in job.prompt_pages() if page.valid_tokens < PAGE_TOKENS)
        return chunks

    def _next_chunk(self, job: RunningJob, in_work: set[Page]) -> int:
        """Take over what others have computed of the prompt; returns how many tokens are to be computed then, without
        a gap, before the next page that is another's."""
        # At a page's edge, in this order:
        # 1. Whole pages that are valid under the prompt's own names are taken over.
        # 2. A page that a job before this one is about to fill is waited for.
        # 3. Of the page that is next, the beginning that some other page agrees in is copied. Is that all of it, then
        #    the row is at an edge again, behind which 1 to 3 may hold once more.
        # Inside a page, and where nothing of the next one is to be had, the prompt is computed.
        while job.row.length % PAGE_TOKENS == 0:
            self._take_pages(job)
            if job.pages.pages[job.row.length // PAGE_TOKENS] in in_work:
                return 0
            if not self._take_part(job):
                break
        others = islice(enumerate(job.prompt_pages()), job.row.length // PAGE_TOKENS + 1, None)
        stop = next(
            (place * PAGE_TOKENS for place, page in others if page in in_work or page.valid_tokens == PAGE_TOKENS),
            job.prompt_tokens,
        )
        return stop - job.row.length

    def _take_pages(self, job: RunningJob) -> None:
        """Copy the whole pages that are valid by now."""
        self._table.skip_valid(job.pages)
        for place in range(job.row.length // PAGE_TOKENS, job.pages.position // PAGE_TOKENS):
            job.row.load_page(self._pool, job.pages.pages[place].index, place * PAGE_TOKENS, PAGE_TOKENS)

    def _take_part(self, job: RunningJob) -> bool:
        """Copy the beginning of a page from the page that agrees with it furthest; returns whether there was any."""
        start = job.row.length
        wanted = job.token_ids[start : min(start + PAGE_TOKENS, job.prompt_tokens - 1)]
        match = self._table.best_partial(job.pages.parent_hash(start // PAGE_TOKENS), wanted)
        if match is None:
            return False
        page, tokens = match
        job.row.load_page(self._pool, page.index, start, tokens)
        job.pages.cached_tokens += tokens
        if tokens == PAGE_TOKENS:
            self._store(job)
        return True

    def _forward(
        self, blocks: Sequence[Block], decoding: Sequence[RunningJob], chunks: Sequence[tuple[RunningJob, int]]
    ) -> Tensor:
        """Logits of the decoding jobs' next tokens, then of those whose prompt ends with this step."""
        step = PackedStep(blocks, [(job.row, tokens) for job, tokens in chunks])
        token_ids = [job.token_ids[-1] for job in decoding]
        wanted = list(range(len(decoding)))
        for job, tokens in chunks:
            token_ids += job.token_ids[job.row.length : job.row.length + tokens]
            if job.row.length + tokens == job.prompt_tokens:
                wanted.append(len(token_ids) - 1)
        places = torch.tensor(wanted, dtype=torch.long) if chunks else None
        return self._model.forward(torch.tensor(token_ids), step, places)

    def _advance(self, chunks: Sequence[tuple[RunningJob, int]], events: list[EngineEvent]) -> list[RunningJob]:
        """Note what the step computed of prompts; returns the jobs whose prompts are through."""
        through = []
        for job, tokens in chunks:
            job.row.length += tokens
            events.append(Prefilled(job.job.job_id, tokens, job.pages.cached_tokens))
            self._store(job)
            if job.row.length == job.prompt_tokens:
                self._prefilling.remove(job)
                through.append(job)
        return through

    def _sample(self, logits: Tensor, jobs: Sequence[RunningJob], events: list[EngineEvent]) -> None:
        if not jobs:
            return
        # Reported are the raw logits, so those rows are copied before anything adjusts them. A job whose grammar fails
        # is sampled with the others all the same, since rows belong together, and ends afterwards.
        asked = [place for place, job in enumerate(jobs) if job.job.params.logprobs is not None]
        raw = logits[asked] if asked else logits
        failures: dict[RunningJob, InvalidRequest] = {}
        for place, job in enumerate(jobs):
            if job.adjuster.active:
                try:
                    job.adjuster.adjust(logits[place])
                except InvalidRequest as error:
                    failures[job] = error
        token_ids = choose(logits, [job.choice() for job in jobs])
        reports: dict[int, TokenLogprobs] = {}
        if asked:
            tops = [jobs[place].job.params.logprobs or 0 for place in asked]
            found = token_logprobs(raw, [token_ids[place] for place in asked], tops)
            reports = dict(zip(asked, found, strict=True))
        for job, token_id in zip(jobs, token_ids, strict=True):
            if job not in failures:
                job.adjuster.announce(token_id)
        for place, (job, token_id) in enumerate(zip(jobs, token_ids, strict=True)):
            if job in failures:
                self._fail(job, failures[job], events)
            else:
                self._accept(job, token_id, reports.get(place), events)

    def _accept(
        self, job: RunningJob, token_id: int, logprobs: TokenLogprobs | None, events: list[EngineEvent]
    ) -> None:
        try:
            ended = job.accept(token_id, logprobs, events)
        except InvalidRequest as error:
            self._fail(job, error, events)
            return
        # Over: it leaves. Its first token: its row moves to those that decode. Any other: its row may have to grow.
        if ended:
            self._leave(job)
        elif len(job.token_ids) == job.prompt_tokens + 1:
            self._rows.start_decoding(job.row)
        else:
            self._rows.make_room(job.row)

    def _fail(self, job: RunningJob, error: InvalidRequest, events: list[EngineEvent]) -> None:
        events.append(job.ended(FinishReason.ERROR, error=error))
        self._leave(job)

    def _leave(self, job: RunningJob) -> None:
        """Give back all that a job holds; what it has computed stays resident until its pages are wanted."""
        self._store(job)
        self._table.release(job.pages)
        self._rows.close(job.row)
        if job.adjuster.grammar is not None:
            job.adjuster.grammar.close()
        del self._jobs[job.row]
        if job in self._prefilling:
            self._prefilling.remove(job)

    def _store(self, job: RunningJob) -> None:
        """Make what the row holds resident, the beginning of its last page included, for others to take over."""
        # Three kinds of pages on the way from `position` to the row's end: valid already (by another job, meanwhile),
        # full by now, and the last one, of which a beginning is there. Then full pages of the completion get names.
        pages, length = job.pages, job.row.length
        for place in range(pages.position // PAGE_TOKENS, pages_needed(length)):
            page, start = pages.pages[place], place * PAGE_TOKENS
            tokens = min(length - start, PAGE_TOKENS)
            if page.valid_tokens < tokens:
                job.row.store_page(self._pool, page.index, start, tokens)
        self._table.fill(pages, length, job.token_ids)
        for place in range(len(pages.hashes), length // PAGE_TOKENS):
            token_ids = job.token_ids[place * PAGE_TOKENS : (place + 1) * PAGE_TOKENS]
            self._table.complete_page(pages, next_hash(pages.parent_hash(place), token_ids))
