"""What crosses a process boundary inside a pool: frozen dataclasses, numbers and text, nothing with behaviour.

The links and their messages (see each class). Whoever offers a stream says `Listening` first.

    front -> dispatcher   Admission, Release, in order, batched per turn of the event loop
    dispatcher -> front   Grant, Refusal, Revocation, PoolLimits
    front -> worker       GenerationRequest, Cancellation, in order, batched per turn of the event loop
    worker -> front       StepOutput, one per engine step
    worker -> dispatcher  ModelCopy, LoadProgress, WorkerReady, then StepReport, at most one every 20 ms
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from actors.model_files.fingerprint import ModelCopy
from actors.results import FinishReason, Priority, TokenLogprobs
from actors.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A request as the dispatcher sees it: numbers only, never text.

    `request_id` stays for the life of the request; `attempt` counts its placements from 1. `page_hashes` are those of
    the prompt's full pages (`actors.paging.hashes.page_hashes`). `timeout_s` is what was left of the request's own time
    limit when this attempt first asked. `excluded_workers` have failed this request before.

    Two ages, of what is told late. `age_s`: since the request first asked for a place, at attempt 1; 0 where that is
    now. It keeps its place in the queue by it. `waited_s`: for so long this attempt has waited for a place already,
    with a dispatcher that was lost. Both grow while nothing else changes, so they do not tell admissions apart.
    """

    request_id: str
    attempt: int
    prompt_tokens: int
    max_new_tokens: int
    page_hashes: tuple[bytes, ...] = ()
    priority: Priority = Priority.DEFAULT
    tenant: str = ""
    timeout_s: float | None = None
    excluded_workers: frozenset[str] = frozenset()
    age_s: float = field(default=0.0, compare=False)
    waited_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Release:
    """An attempt needs no place any more: it was given up, in the queue or after its grant. A later attempt of the
    same request is not touched."""

    request_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to start `attempt` of a request on a worker now."""

    request_id: str
    attempt: int
    worker_id: str


class RefusalReason(StrEnum):
    OVERSIZED = "oversized"
    QUEUE_FULL = "queue_full"
    WAIT_TOO_LONG = "wait_too_long"
    NO_WORKER = "no_worker"
    DEADLINE = "deadline"
    DUPLICATE = "duplicate"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The dispatcher's no: `message` is for a person, `retry_after_s` is None where a retry cannot help."""

    request_id: str
    reason: RefusalReason
    message: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """The place of an attempt is taken back. Its front gives the attempt up, unless it is over, and may ask again.

    `moved`: its worker is well and is being emptied, so the request goes on elsewhere, and is not to blame for this."""

    request_id: str
    attempt: int
    reason: str
    moved: bool = False


Decision = Grant | Refusal | Revocation


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the workers take that are up, or were when they were last heard of. A front hears of it when it begins to
    listen, and whenever another worker comes up."""

    limits: tuple[WorkerLimits, ...]


DispatcherNews = Decision | PoolLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a front learns when it greets the dispatcher: `workers` maps slot names to actor handles, for good.

    Workers that come later are found by their names in `pool`."""

    pool: str = ""
    workers: Mapping[str, Any]
    limits: tuple[WorkerLimits, ...]
    model_dir: str
    default_max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One attempt, as a worker gets it. `ticket` is the front's own number for the attempt: outputs carry it back.

    A late output of an older attempt has another ticket, so it can never be taken for the current one. Of a `whole`
    attempt output comes in large pieces, since nobody reads it before its end. `page_hashes` are those of `token_ids`.

    The last `resumed_tokens` of `token_ids` are the beginning of the completion, which earlier attempts have made and
    the front has: the worker goes on behind them, by up to `max_new_tokens`.
    """

    ticket: int
    request_id: str
    attempt: int
    token_ids: tuple[int, ...]
    max_new_tokens: int
    seed: int
    params: SamplingParams
    page_hashes: tuple[bytes, ...] = ()
    whole: bool = False
    resumed_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Cancellation:
    """The attempt of this ticket is given up. Unknown tickets are ignored, since its end may be on its way."""

    ticket: int


WorkerCommand = GenerationRequest | Cancellation


@dataclass(frozen=True, slots=True)
class Listening:
    """The first message of a worker's stream: which life of the worker offers it, on which of Ray's nodes, that node's
    address, and the ids of the GPUs that are the worker's. In the stream of reports it comes again whenever there is
    nothing else to tell, so that a stream that is broken can be told from one that is quiet."""

    worker_id: str
    node_id: str = ""
    node: str = ""
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of an attempt on its engine. `error` is set exactly when `reason` is ERROR.

    `completion_tokens` counts the tokens that the attempt sampled, the stop token included; `cached_tokens` those of
    its prompt and resumed tokens that were not computed again.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    stop_token_id: int | None = None
    stop_string: str | None = None
    queue_s: float = 0.0
    """From submission to the worker until the engine took it up."""
    prefill_s: float = 0.0
    generate_s: float = 0.0
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutput:
    """Everything one engine step made for one front, in columns: entry i of each belongs to `tickets[i]`.

    `logprobs` is empty unless at least one of the jobs asked for them.
    """

    tickets: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()
    logprobs: tuple[tuple[TokenLogprobs, ...], ...] = ()
    finished: tuple[tuple[int, Finished], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What a loaded worker can take. A request needs `pages_needed(prompt_tokens + max_new_tokens + reserve_tokens)`.

    `supported_parameters` names the `SamplingParams` fields that the engine honours when they are not neutral.
    `tokenizer` and `prompt_files` are digests (`actors.model_files.prompt_files`) of what the worker's node has, empty
    where nobody looked: of what makes token ids, and of all that makes prompts.
    """

    engine: str
    model: str
    context_tokens: int
    total_pages: int
    max_batch_size: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    supported_parameters: frozenset[str]
    reserve_tokens: int = 0
    tokenizer: str = ""
    prompt_files: str = ""


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    request_id: str
    attempt: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    request_id: str
    attempt: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class StepSample:
    """One engine step: wall time, prompt tokens computed in it, and sequences that decoded one token in it."""

    duration_s: float
    prefill_tokens: int
    decode_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What changed on a worker since its last report. `sequence` counts from 1 without gaps.

    `first_tokens` names attempts that emitted their first token. `pages_added` and `pages_evicted` are hashes of full,
    valid pages that became resident or were lost; with `full` they are the whole truth instead of a difference.
    `running` goes with `full`: (request id, attempt) of everything the worker holds after this report; what is booked
    there and not named is given back. None: not told.
    """

    worker_id: str
    sequence: int
    started: tuple[AttemptStarted, ...] = ()
    first_tokens: tuple[tuple[str, int], ...] = ()
    finished: tuple[AttemptFinished, ...] = ()
    pages_added: tuple[bytes, ...] = ()
    pages_evicted: tuple[bytes, ...] = ()
    full: bool = False
    running: tuple[tuple[str, int], ...] | None = None
    steps: tuple[StepSample, ...] = ()
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far loading is: `done` of `total` steps of `stage` (for example "weights" or "warm-up")."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """An attempt that a worker already runs when it comes up for a new scheduler."""

    admission: Admission
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker can generate. `sequence` is that of its last report, `resident_pages` its cache at that moment, and
    `running` what it holds already when a new dispatcher listens. The totals are of its life so far."""

    worker_id: str
    limits: WorkerLimits
    resident_pages: frozenset[bytes]
    sequence: int
    running: tuple[RunningAttempt, ...] = ()
    generated_tokens: int = 0
    finished_requests: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Steps done so far, and for how long the engine's thread has been at its present turn (0: it waits for work)."""

    worker_id: str
    steps: int
    turn_age_s: float
    pid: int


WorkerNews = Listening | ModelCopy | LoadProgress | WorkerReady | StepReport
