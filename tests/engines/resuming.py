"""Completions that are broken off and go on, beside the same ones in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from actors.engines.base import Engine, EngineJob
from actors.paging.hashes import page_hashes
from tests.engines.cpu.harness import Outcome, Runner, alone


def resumed(job: EngineJob, token_ids: Sequence[int]) -> EngineJob:
    """The job as it goes on behind these tokens of its completion."""
    sequence = (*job.token_ids, *token_ids)
    return replace(
        job,
        token_ids=sequence,
        page_hashes=page_hashes(sequence),
        max_new_tokens=job.max_new_tokens - len(token_ids),
        resumed_tokens=job.resumed_tokens + len(token_ids),
    )


def broken_off(engine: Engine, job: EngineJob, after_tokens: int) -> Outcome:
    """All that had been told of the job by the step in which so many tokens, or its end, had been; then it is
    cancelled."""
    runner = Runner(engine)
    runner.submit(job)
    told = runner.outcomes[job.job_id]
    runner.until(lambda: told.ended is not None or len(told.token_ids) >= after_tokens)
    if told.ended is not None:
        return told
    shown = replace(told, token_ids=list(told.token_ids), logprobs=list(told.logprobs))
    engine.cancel(job.job_id)
    runner.finish()
    return shown


def with_breaks(engine: Engine, job: EngineJob, lengths_tokens: Sequence[int]) -> tuple[Outcome, int]:
    """What its caller has of a job that is broken off after each of these lengths in turn, and how many tokens its
    usage counts."""
    whole, rest = Outcome(), job
    for length_tokens in lengths_tokens:
        part = broken_off(engine, rest, length_tokens)
        _join(whole, part)
        if part.ended is not None:
            break
        rest = resumed(rest, part.token_ids)
    else:
        _join(whole, alone(engine, rest))
    return whole, rest.resumed_tokens + whole.end.completion_tokens


def _join(whole: Outcome, part: Outcome) -> None:
    whole.text += part.text
    whole.token_ids += part.token_ids
    whole.logprobs += part.logprobs
    whole.ended = part.ended


def assert_resumes(engine: Engine, job: EngineJob, lengths_tokens: Sequence[int]) -> None:
    """Broken off or not, the caller has the same."""
    calm = alone(engine, job)
    broken, completion_tokens = with_breaks(engine, job, lengths_tokens)
    assert broken.token_ids == calm.token_ids
    assert broken.text == calm.text
    assert completion_tokens == calm.end.completion_tokens
    for name in ("reason", "stop_token_id", "stop_string"):
        assert getattr(broken.end, name) == getattr(calm.end, name), name
    assert [entry.token_id for entry in broken.logprobs] == [entry.token_id for entry in calm.logprobs]
    for one, other in zip(broken.logprobs, calm.logprobs, strict=True):
        assert abs(one.logprob - other.logprob) < 1e-3
        assert [token_id for token_id, _ in one.top] == [token_id for token_id, _ in other.top]
