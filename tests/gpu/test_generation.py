"""Prefixes, drafting, samplers, grammars, logprobs and cancelling on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.builtin_model import builtin_model_path
from actors.engines.base import Engine, EngineJob
from actors.paging.hashes import page_hashes
from actors.results import FinishReason
from actors.sampling import sampling_params
from tests.engines.cpu.harness import Outcome, Runner, alone, run
from tests.gpu.conftest import LoadEngine
from tests.gpu.expected import assert_equal_where_sure, cpu_outcomes, greedy_job, prompts

pytestmark = pytest.mark.gpu

LOGPROB_TOLERANCE = 0.05
CHAT = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}


def job(job_id: int, token_ids: tuple[int, ...], max_new_tokens: int, seed: int, **params: Any) -> EngineJob:
    return EngineJob(
        job_id=job_id,
        token_ids=token_ids,
        page_hashes=page_hashes(token_ids),
        max_new_tokens=max_new_tokens,
        seed=seed,
        params=sampling_params(**params),
    )


def steps_of(engine: Engine, one: EngineJob) -> tuple[Outcome, int]:
    runner = Runner(engine)
    runner.submit(one)
    steps = 0
    while engine.has_work():
        runner.step()
        steps += 1
    return runner.outcomes[one.job_id], steps


def test_a_prefix_is_computed_once(load_engine: LoadEngine) -> None:
    engine = load_engine()
    longest = max(range(len(prompts())), key=lambda number: len(prompts()[number]))
    ids = prompts()[longest]
    assert len(ids) > 600
    first, second = alone(engine, greedy_job(0, ids)), alone(engine, greedy_job(1, ids))
    assert first.end.cached_tokens == 0
    assert second.end.cached_tokens >= (len(ids) - 1) // 256 * 256
    assert second.prefilled_tokens < 256
    for outcome in (first, second):
        assert_equal_where_sure(outcome.token_ids, cpu_outcomes()[longest])


def test_the_next_turn_finds_the_answer_in_the_cache(load_engine: LoadEngine) -> None:
    engine = load_engine()
    ids = prompts()[-1]
    answer = alone(engine, greedy_job(0, ids, 300))
    follow_up = (*ids, *answer.token_ids, *prompts()[0][1:])
    outcome = alone(engine, greedy_job(1, follow_up, 16))
    assert outcome.end.cached_tokens >= (len(ids) + 299) // 256 * 256
    engine.reset()
    assert alone(engine, greedy_job(2, follow_up, 16)).end.cached_tokens == 0


@pytest.mark.parametrize("drafting", [False, True])
def test_page_changes_add_up_to_what_is_resident(load_engine: LoadEngine, drafting: bool) -> None:
    engine = load_engine(cache_tokens=8192, exllamav2={"ngram_draft": drafting})
    pages = set(engine.resident_pages())
    engine.page_changes()
    runner = Runner(engine)
    runner.submit(*(greedy_job(number, ids, 300) for number, ids in enumerate((*prompts(), (5,)))))
    while engine.has_work():
        runner.step()
        changes = engine.page_changes()
        assert not pages & set(changes.added)
        assert pages >= set(changes.evicted)
        pages = (pages | set(changes.added)) - set(changes.evicted)
        assert pages == engine.resident_pages()
    assert pages


def test_ngram_drafting_changes_nothing_and_saves_steps(load_engine: LoadEngine) -> None:
    engine = load_engine(exllamav2={"ngram_draft": True})
    saved = 0
    for number, ids in enumerate(prompts()):
        outcome, steps = steps_of(engine, greedy_job(number, ids))
        assert outcome.end.completion_tokens == 64
        assert_equal_where_sure(outcome.token_ids, cpu_outcomes()[number])
        saved += 64 - steps
    assert saved > 0


def test_a_draft_model_changes_nothing_and_saves_steps(load_engine: LoadEngine) -> None:
    engine = load_engine(exllamav2={"draft_model": builtin_model_path()})
    for number in (0, 8, 15):
        outcome, steps = steps_of(engine, greedy_job(number, prompts()[number]))
        assert_equal_where_sure(outcome.token_ids, cpu_outcomes()[number])
        assert steps < 64 / 2
    outcomes = run(engine, *(greedy_job(number, ids) for number, ids in enumerate(prompts())))
    for number, expected in enumerate(cpu_outcomes()):
        assert_equal_where_sure(outcomes[number].token_ids, expected)


def test_a_schema_gives_documents_that_it_accepts(load_engine: LoadEngine) -> None:
    engine = load_engine()
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    asked = prompts()[5]
    outcomes = run(engine, *(job(n, asked, 120, n, json_schema=schema, temperature=1.5) for n in range(12)))
    for outcome in outcomes.values():
        assert outcome.end.reason is FinishReason.STOP
        document = json.loads(outcome.text)
        assert set(document) == {"name", "age"}
        assert document["age"] >= 0


def test_logprobs_are_those_of_float32(load_engine: LoadEngine) -> None:
    engine = load_engine()
    jobs = [greedy_job(number, ids, logprobs=5) for number, ids in enumerate(prompts())]
    outcomes = run(engine, *jobs)
    compared = 0
    for number, expected in enumerate(cpu_outcomes()):
        sure = assert_equal_where_sure(outcomes[number].token_ids, expected)
        for mine, theirs in zip(outcomes[number].logprobs[:sure], expected.logprobs[:sure], strict=True):
            assert mine.token_id == theirs.token_id
            assert mine.logprob == pytest.approx(theirs.logprob, abs=LOGPROB_TOLERANCE)
            assert mine.top[0] == (mine.token_id, mine.logprob)
            assert dict(mine.top)[theirs.token_id] == pytest.approx(theirs.top[0][1], abs=LOGPROB_TOLERANCE)
            compared += 1
    assert compared > 200


@pytest.mark.parametrize(
    "params",
    [CHAT, {"top_p": 0.9}, {"min_p": 0.05}, {"temperature": 1.0}, {**CHAT, "repetition_penalty": 1.1}],
    ids=str,
)
def test_a_seed_gives_the_same_text_again(load_engine: LoadEngine, params: dict[str, Any]) -> None:
    engine = load_engine()
    texts = []
    for _ in range(2):
        engine.reset()
        outcomes = run(engine, *(job(n, prompts()[6], 40, seed=n, ignore_eos=True, **params) for n in range(8)))
        texts.append([outcomes[n].text for n in range(8)])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_a_cancelled_job_ends_and_the_others_go_on(load_engine: LoadEngine) -> None:
    engine = load_engine()
    runner = Runner(engine)
    runner.submit(*(greedy_job(number, ids) for number, ids in enumerate(prompts()[:8])))
    runner.until(lambda: all(len(outcome.token_ids) > 3 for outcome in runner.outcomes.values()))
    for number in (0, 3, 5):
        engine.cancel(number)
    outcomes = runner.finish()
    for number, outcome in outcomes.items():
        cancelled = number in {0, 3, 5}
        assert outcome.end.reason is (FinishReason.CANCELLED if cancelled else FinishReason.LENGTH)
        assert_equal_where_sure(outcome.token_ids, cpu_outcomes()[number])
    assert engine.capacity().free_pages == engine.capacity().total_pages


def test_banned_strings_and_stop_strings_work_on_a_gpu(load_engine: LoadEngine) -> None:
    engine = load_engine()
    story = greedy_job(0, prompts()[8], stop=("Lily", "."), banned_strings=("upon",), ignore_eos=False)
    outcome = alone(engine, story)
    assert outcome.end.reason is FinishReason.STOP
    assert "upon" not in outcome.text
    assert "." not in outcome.text


def test_a_long_prompt_does_not_stop_running_streams(load_engine: LoadEngine) -> None:
    """While a prompt of many chunks is computed, every step still gives the running job a token."""
    engine = load_engine(chunk_tokens=256)
    runner = Runner(engine)
    runner.submit(greedy_job(0, prompts()[0], 200))
    runner.until(lambda: len(runner.outcomes[0].token_ids) > 5)
    words = torch.randint(300, 2000, (2000,), generator=torch.Generator().manual_seed(0))
    runner.submit(greedy_job(1, tuple(words.tolist()), 4))
    before = len(runner.outcomes[0].token_ids)
    steps = 0
    while not runner.outcomes[1].token_ids:
        runner.step()
        steps += 1
    assert steps >= 2000 // 256
    assert len(runner.outcomes[0].token_ids) - before == steps


def test_a_model_without_a_name_for_its_weights_is_not_taken_for_llama(load_engine: LoadEngine, tmp_path: Path) -> None:
    from actors.errors import ModelError

    for file in builtin_model_path().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["NobodyKnowsForCausalLM"]}))
    with pytest.raises(ModelError, match="NobodyKnowsForCausalLM"):
        load_engine(model=tmp_path)


@pytest.mark.parametrize("length", [256, 512])
def test_banned_strings_behind_prompts_that_fill_a_page(load_engine: LoadEngine, length: int) -> None:
    engine = load_engine()
    ids = tuple(token for each in prompts() for token in each)[:length]
    banned = alone(engine, greedy_job(0, ids, 2)).text
    engine.reset()
    outcomes = run(engine, *(job(n, ids, 12, 0, temperature=0.0, banned_strings=[banned]) for n in range(2)))
    assert outcomes[0].token_ids == outcomes[1].token_ids
    assert banned.lower() not in outcomes[0].text.lower()
    assert engine.capacity().free_pages == engine.capacity().total_pages


def test_healing_and_logprobs_give_as_many_as_were_asked_for(load_engine: LoadEngine) -> None:
    engine = load_engine()
    for count in (18, 19, 20):
        outcome = alone(engine, job(count, prompts()[5], 6, 0, temperature=0.0, ignore_eos=True, logprobs=count))
        assert [len(entry.top) for entry in outcome.logprobs] == [count] * 6
    healed = alone(engine, job(0, prompts()[5], 6, 0, temperature=0.0, ignore_eos=True, token_healing=True))
    assert len(healed.token_ids) == healed.end.completion_tokens == 6


def test_a_grammar_that_is_complete_with_the_last_token_stops(load_engine: LoadEngine) -> None:
    engine = load_engine()
    free = alone(engine, job(0, prompts()[5], 40, 0, temperature=0.0, regex="[ab]{6}"))
    exact = alone(engine, job(1, prompts()[5], len(free.token_ids), 0, temperature=0.0, regex="[ab]{6}"))
    assert (exact.text, exact.end.reason) == (free.text, FinishReason.STOP)
