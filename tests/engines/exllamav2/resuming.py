"""Jobs that are broken off in the middle and go on as a new job, as after the loss of a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors.engines.base import Emitted, EngineJob
from actors.engines.exllamav2.engine import ExLlamaV2Engine
from actors.results import FinishReason
from tests.engines.exllamav2.running import MAX_STEPS, Outcome, note
from tests.engines.resumed_jobs import resumed

LOGPROB_TOLERANCE = 1e-4
NOT_COMPARED: dict[str, Any] = {"cached_tokens": 0, "prefill_s": 0.0, "generate_s": 0.0, "error": None}


def run_broken(engine: ExLlamaV2Engine, job: EngineJob, breaks: Sequence[int], *, elsewhere: bool = False) -> Outcome:
    """Run a job that is broken off after so many events with new text, and then the rest after so many more, and so on.
    Returns what somebody has seen who heard only that. `elsewhere`: the cache knows nothing of what was before."""
    seen = Outcome()
    for count in (*breaks, -1):
        attempt = _run(engine, resumed(job, seen.token_ids), count)
        before = len(seen.token_ids)
        seen.text += attempt.text
        seen.token_ids += attempt.token_ids
        seen.logprobs += attempt.logprobs
        seen.started += attempt.started
        if attempt.end.reason is not FinishReason.CANCELLED:
            seen.ended = replace(attempt.end, completion_tokens=before + attempt.end.completion_tokens)
            return seen
        if elsewhere:
            engine.reset()
    raise AssertionError("a job was cancelled that nobody cancelled")


def _run(engine: ExLlamaV2Engine, job: EngineJob, events_with_text: int) -> Outcome:
    outcome, told = Outcome(), 0
    engine.submit(job)
    for _ in range(MAX_STEPS):
        events = engine.step()
        told += sum(isinstance(event, Emitted) for event in events)
        note({job.job_id: outcome}, events)
        if outcome.ended is not None:
            return outcome
        if told == events_with_text:
            engine.cancel(job.job_id)
            (end,) = engine.step()
            note({job.job_id: outcome}, [end])
            return outcome
    raise AssertionError("the engine does not come to an end")


def assert_same(broken: Outcome, whole: Outcome, what: object = "") -> None:
    assert broken.token_ids == whole.token_ids, what
    assert broken.text == whole.text, what
    assert len(broken.logprobs) == len(whole.logprobs), what
    for mine, theirs in zip(broken.logprobs, whole.logprobs, strict=True):
        assert mine.token_id == theirs.token_id, what
        assert mine.logprob == pytest.approx(theirs.logprob, abs=LOGPROB_TOLERANCE), what
        assert [pair[1] for pair in mine.top] == pytest.approx([pair[1] for pair in theirs.top], abs=LOGPROB_TOLERANCE)
    assert replace(broken.end, **NOT_COMPARED) == replace(whole.end, **NOT_COMPARED), what
