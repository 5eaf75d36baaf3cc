"""Completions that are resumed on a GPU, where the rows of a step may be rounded otherwise than they were.

In fp16 the logits of a token depend a little on how many others are computed with it: a prompt in one piece or token by
token, a batch of this size or of that. Where two tokens are nearly as likely, a resumed completion may so take the
other one. What is promised is that nothing else makes a difference:
- greedy: the first token that differs is one whose likelihood was within `FP16_MARGIN` of the most likely one;
- with a seed: the same draws fall on the same tokens but for those near a border. It is counted, and bounded loosely.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.engines.base import Engine, EngineJob
from actors.results import FinishReason
from tests.engines.cpu.harness import TOKENIZER, Outcome, run
from tests.engines.resuming import resumed
from tests.gpu.conftest import LoadEngine
from tests.gpu.expected import FP16_MARGIN, greedy_job, prompts
from tests.gpu.test_generation import job

pytestmark = pytest.mark.gpu

TOKENS = 96
BREAKS = (1, 17, 48, 90)
SAME_WITH_A_SEED = 0.75
"""The least share of resumed completions that are the whole ones, token by token."""
SAMPLERS: dict[str, dict[str, Any]] = {
    "temperature 0.8, top_k 50, top_p 0.9": {"temperature": 0.8, "top_k": 50, "top_p": 0.9},
    "temperature 1": {"temperature": 1.0},
    "penalties": {"temperature": 1.0, "top_k": 40, "repetition_penalty": 1.1, "presence_penalty": 0.5},
}


def first_difference(mine: list[int], theirs: list[int]) -> int | None:
    assert len(mine) == len(theirs) == TOKENS
    return next((place for place, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1]), None)


def resume_all(engine: Engine, jobs: list[EngineJob], whole: dict[int, Outcome], kept: int) -> list[int | None]:
    """Where each job first differs when all go on behind so many tokens, on an engine that knows nothing of them."""
    engine.reset()
    rest = run(engine, *(resumed(each, whole[each.job_id].token_ids[:kept]) for each in jobs))
    for outcome in rest.values():
        assert outcome.end.reason is FinishReason.LENGTH
        assert outcome.end.completion_tokens == len(outcome.token_ids) == TOKENS - kept
    assert engine.capacity().free_pages == engine.capacity().total_pages
    joined = {number: whole[number].token_ids[:kept] + rest[number].token_ids for number in whole}
    return [first_difference(joined[number], whole[number].token_ids) for number in whole]


def test_greedy_completions_go_on_as_they_would_have_but_for_near_ties(load_engine: LoadEngine) -> None:
    engine = load_engine()
    jobs = [greedy_job(number, ids, TOKENS, logprobs=2) for number, ids in enumerate(prompts())]
    whole = run(engine, *jobs)
    for kept in BREAKS:
        differences = resume_all(engine, jobs, whole, kept)
        flips = [(number, place) for number, place in enumerate(differences) if place is not None]
        print(f"greedy, resumed behind {kept}: {len(flips)} of {len(jobs)} differ, at {flips}")
        for number, place in flips:
            (_, best), (_, second) = whole[number].logprobs[place].top
            assert best - second < FP16_MARGIN, f"job {number} differs at {place}, where nothing was near"


@pytest.mark.parametrize("name", SAMPLERS)
def test_seeded_completions_go_on_with_the_draws_that_they_would_have_had(load_engine: LoadEngine, name: str) -> None:
    engine = load_engine()
    jobs = [job(number, ids, TOKENS, number, ignore_eos=True, **SAMPLERS[name]) for number, ids in enumerate(prompts())]
    whole = run(engine, *jobs)
    differences = [place for kept in BREAKS for place in resume_all(engine, jobs, whole, kept)]
    same = differences.count(None)
    print(f"{name}: {same} of {len(differences)} resumed completions are the whole ones")
    assert same >= SAME_WITH_A_SEED * len(differences)


@pytest.mark.parametrize("drafting", [False, True])
def test_a_document_that_is_resumed_anywhere_is_still_one(load_engine: LoadEngine, drafting: bool) -> None:
    engine = load_engine(exllamav2={"ngram_draft": drafting})
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    one = job(0, prompts()[5], 120, 3, json_schema=schema, temperature=1.0)
    whole = run(engine, one)[0]
    assert whole.end.reason is FinishReason.STOP
    same = 0
    for kept in range(1, len(whole.token_ids)):
        engine.reset()
        rest = run(engine, resumed(one, whole.token_ids[:kept]))[0]
        assert rest.end.reason is FinishReason.STOP
        document = json.loads(TOKENIZER.decode(whole.token_ids[:kept] + rest.token_ids))
        assert set(document) == {"name", "age"}
        same += document == json.loads(whole.text)
    print(f"{same} of {len(whole.token_ids) - 1} resumed documents are the whole one, drafting {drafting}")
