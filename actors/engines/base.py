"""The engine protocol: what a worker needs from anything that generates text.

One thread owns an engine: it constructs, loads, submits, steps, cancels, reads and closes it. Nothing here is
thread-safe and nothing needs to be. The shape is that of ExLlamaV2's and ExLlamaV3's dynamic generators: jobs are
submitted at any time between two steps, a step moves all of them, and the results come back as one list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from actors.messages import LoadProgress, WorkerLimits
from actors.results import FinishReason, TokenLogprobs
from actors.sampling import SamplingParams

ProgressCallback = Callable[[LoadProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """One sequence to generate. `job_id` is the owner's number, unique among the engine's live jobs.

    `page_hashes` are those of `token_ids` (`actors.paging.hashes.page_hashes`). All token ids, those in `params`
    included, were checked against the model's vocabulary where the request was made (`actors.request.checks`): nobody
    walks them again. `max_new_tokens` and `seed` are resolved; those of `params` are to be ignored.

    A completion that an earlier attempt has begun, elsewhere perhaps, goes on here: the last `resumed_tokens` of
    `token_ids` are its beginning, exactly the ids that were `Emitted`. The job makes what would have followed them:
    stop strings, bans, penalties, `min_new_tokens`, a grammar and the draws of its seed count from the completion's
    beginning. `max_new_tokens` is what may still follow. Only what follows is emitted.
    """

    job_id: int
    token_ids: tuple[int, ...]
    page_hashes: tuple[bytes, ...]
    max_new_tokens: int
    seed: int
    params: SamplingParams
    resumed_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return len(self.token_ids) - self.resumed_tokens

    @property
    def completion_ids(self) -> tuple[int, ...]:
        """The beginning of the completion that is there already."""
        return self.token_ids[self.prompt_tokens :]


@dataclass(frozen=True, slots=True)
class Started:
    """The engine took the job up: it holds pages and a slot from here to its `Ended`."""

    job_id: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The step computed `tokens` prompt tokens of the job; `cached_tokens` others, so far, were resident already."""

    job_id: int
    tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Emitted:
    """New text of a job. `text` may lag behind `token_ids` while a stop string or a character is incomplete.

    Text and ids that end up held back by a stop are never emitted; joined over all events they are the completion.
    `logprobs` has one entry per id when the job asked for them, else it is empty.
    """

    job_id: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The job's terminal event: exactly one per submitted job, whatever happens, cancellation included.

    Its pages are unreferenced and its slot is free. `completion_tokens` counts the tokens that this job sampled, a stop
    token included and resumed ones not.
    """

    job_id: int
    reason: FinishReason
    completion_tokens: int
    cached_tokens: int
    prefill_s: float = 0.0
    generate_s: float = 0.0
    stop_token_id: int | None = None
    stop_string: str | None = None
    error: Exception | None = None


EngineEvent = Started | Prefilled | Emitted | Ended


@dataclass(frozen=True, slots=True)
class Capacity:
    """A snapshot: pages that no running job references, and jobs that run or wait inside the engine."""

    free_pages: int
    total_pages: int
    active_jobs: int
    pending_jobs: int
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class PageChanges:
    """Hashes of full, valid pages that became resident and that were lost between two looks: the difference alone, so
    a page that came and went in between is in neither."""

    added: tuple[bytes, ...] = ()
    evicted: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.evicted)


class Engine(Protocol):
    """Anything that generates. See the module's docstring for the threading rule."""

    def load(self, progress: ProgressCallback) -> WorkerLimits:
        """Load the model and reserve the cache, so that running out of memory shows here.

        An exception from `progress` aborts the load.
        :raises ModelError: the model directory is unusable or does not fit.
        """
        ...

    def submit(self, job: EngineJob) -> None:
        """Queue a job; it starts in the next `step` in which its pages and a slot are free, in order of submission.

        Everything that could harm other jobs is refused here, before anything is touched.
        :raises InvalidRequest: this engine cannot do this job; nothing has changed.
        """
        ...

    def cancel(self, job_id: int) -> None:
        """End a job. The next `step` returns its `Ended` (CANCELLED) and has freed what it held; unknown ids are
        ignored, since a cancel may cross an end."""
        ...

    def step(self) -> list[EngineEvent]:
        """Move every job once: start what fits, prefill in chunks, decode one token for all that are ready.

        Returns at once when there is nothing to do. After an exception (any type) the engine must be `reset`.
        :raises FatalEngineError: the process cannot go on and must end.
        """
        ...

    def has_work(self) -> bool:
        """Whether `step` has anything to do or to report."""
        ...

    def capacity(self) -> Capacity: ...

    def resident_pages(self) -> frozenset[bytes]:
        """Hashes (`actors.paging.hashes`) of the full pages whose cache is valid now, referenced or not.

        Takes time for every page; what changed from step to step is to be had from `page_changes`.
        """
        ...

    def page_changes(self) -> PageChanges:
        """How `resident_pages` has changed since the last call, at first since the engine was made, when it was empty.

        Cheap where nothing changed: it may be called after every step. `reset` loses all pages.
        """
        ...

    def reset(self) -> None:
        """After a failed `step`: forget all jobs (no `Ended` follows; the owner fails them) and all cached pages."""
        ...

    def close(self) -> None:
        """Give back memory and threads. Safe to call twice, and on an engine that failed to load."""
        ...
