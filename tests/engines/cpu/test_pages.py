"""Pages of the CPU engine: what is shared, what is resident, and that all comes back."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.config import EngineConfig
from actors.engines.base import EngineJob
from actors.engines.cpu import CpuEngine
from actors.paging.hashes import PAGE_TOKENS, page_hashes
from tests.engines.cpu.harness import Runner, alone, filler, job, reference_tokens, run
from tests.properties import examples


def all_free(engine: CpuEngine) -> bool:
    capacity = engine.capacity()
    return (capacity.free_pages, capacity.active_jobs, capacity.pending_jobs) == (capacity.total_pages, 0, 0)


def test_resident_pages_are_those_that_the_ids_predict(engine: CpuEngine) -> None:
    outcome = alone(engine, job(1, filler(600), 200, ignore_eos=True))
    written = (*filler(600), *outcome.token_ids[:-1])  # the last token's keys were never needed
    assert engine.resident_pages() == set(page_hashes((*written, 0)))
    assert len(engine.resident_pages()) == 3


def test_a_page_that_a_prompt_fills_exactly_is_resident(engine: CpuEngine) -> None:
    alone(engine, job(1, filler(512), 1))
    assert engine.resident_pages() == set(page_hashes((*filler(512), 0)))


def test_a_prompt_is_not_computed_twice(engine: CpuEngine, reference: Any) -> None:
    prompt = filler(700)
    first = alone(engine, job(1, prompt, 12))
    again = alone(engine, job(1, prompt, 12))
    assert (first.prefilled_tokens, first.cached_tokens) == (700, 0)
    assert (again.prefilled_tokens, again.cached_tokens, again.end.cached_tokens) == (1, 699, 699)
    assert first.token_ids == again.token_ids == reference_tokens(reference, prompt, 12)


def test_the_next_turn_of_a_conversation_reuses_the_answer(engine: CpuEngine, reference: Any) -> None:
    answer = alone(engine, job(1, filler(400), 200, ignore_eos=True)).token_ids
    longer = (*filler(400), *answer, *filler(30, 9))
    outcome = alone(engine, job(2, longer, 12))
    assert outcome.cached_tokens == 400 + 199  # the answer's last token was never computed
    assert outcome.token_ids == reference_tokens(reference, longer, 12)


def test_a_common_beginning_within_a_page_is_copied(engine: CpuEngine, reference: Any) -> None:
    alone(engine, job(1, filler(500), 4))
    other = (*filler(400), *filler(50, 7))
    outcome = alone(engine, job(2, other, 12))
    assert outcome.cached_tokens == 400
    assert outcome.token_ids == reference_tokens(reference, other, 12)


def test_running_jobs_share_pages(engine: CpuEngine) -> None:
    runner = Runner(engine)
    runner.submit(*(job(i, (*filler(600), *filler(20, i)), 100) for i in range(1, 9)))
    runner.until(lambda: engine.capacity().pending_jobs == 0)
    # 720 tokens are 3 pages, of which the first 2 are common.
    assert engine.capacity().free_pages == 48 - (2 + 8)
    runner.finish()
    assert all_free(engine)


def test_equal_prompts_that_start_together_are_computed_once(engine: CpuEngine, reference: Any) -> None:
    prompt = filler(800)
    outcomes = run(engine, *(job(i, prompt, 12) for i in range(4)))
    expected = reference_tokens(reference, prompt, 12)
    assert [outcome.token_ids for outcome in outcomes.values()] == [expected] * 4
    assert outcomes[0].prefilled_tokens == 800
    for i in (1, 2, 3):
        assert outcomes[i].prefilled_tokens <= 800 - 3 * PAGE_TOKENS
        assert outcomes[i].prefilled_tokens + outcomes[i].cached_tokens == 800


def test_pages_that_a_completion_filled_meanwhile_are_copied_whole(engine: CpuEngine, reference: Any) -> None:
    """A prompt waits for its turn while another job's completion writes the same text. Its pages have the names, so
    those of the completion stay nameless: their content is found by its tokens, one whole page after the other."""
    begin = filler(250)
    text = (*begin, *alone(engine, job(0, begin, 600, ignore_eos=True)).token_ids)
    engine.reset()
    runner = Runner(engine)
    runner.submit(job(1, begin, 600, ignore_eos=True))
    runner.step()
    batch = engine._batch
    assert batch is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_chunk_tokens", 0)  # as if long prompts before it took the budget of every step
        runner.submit(job(2, text[:800], 12))
        runner.until(lambda: len(runner.outcomes[1].token_ids) >= 530)
    runner.step()
    assert (runner.outcomes[2].cached_tokens, runner.outcomes[2].prefilled_tokens) == (768, 32)
    engine.cancel(1)
    assert runner.finish()[2].token_ids == reference_tokens(reference, text[:800], 12)
    assert all_free(engine)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_who_waits_for_a_page_computes_it_when_its_owner_goes(engine: CpuEngine, reference: Any, steps: int) -> None:
    prompt = filler(900)
    runner = Runner(engine)
    runner.submit(job(1, prompt, 12), job(2, prompt, 12), job(3, filler(100, 3), 12))
    for _ in range(steps):
        runner.step()
    engine.cancel(1)
    assert runner.finish()[2].token_ids == reference_tokens(reference, prompt, 12)
    assert all_free(engine)


def test_the_pages_used_longest_ago_make_room(engine: CpuEngine) -> None:
    old, kept = filler(256 * 10 + 1, 1), filler(256 * 10 + 1, 2)
    alone(engine, job(1, old, 1))
    alone(engine, job(1, kept, 1))
    alone(engine, job(1, filler(256 * 15 + 1, 3), 1))
    alone(engine, job(1, filler(256 * 13 + 1, 4), 1))
    resident = engine.resident_pages()
    assert set(page_hashes(kept)) <= resident
    assert not set(page_hashes(old)) <= resident


def test_sequences_that_outgrow_their_block_keep_their_text(engine: CpuEngine, reference: Any) -> None:
    prompts = [filler(length, length) for length in (200, 250, 255, 256, 480, 511)]
    outcomes = run(engine, *(job(i, prompt, 70, ignore_eos=True) for i, prompt in enumerate(prompts)))
    for i, prompt in enumerate(prompts):
        expected = reference_tokens(reference, prompt, 70, eos_token_id=None, min_new_tokens=70)
        assert outcomes[i].token_ids == expected


def mixed_jobs(random: Random) -> list[EngineJob]:
    jobs = []
    for i in range(random.randint(1, 10)):
        prompt = (*filler(random.choice([0, 255, 256, 500]), random.randint(0, 1)), *filler(random.randint(1, 60), i))
        options: dict[str, Any] = random.choice(
            [{}, {"stop": ["a"]}, {"regex": "[a-z]{3}"}, {"temperature": 1.0}, {"ignore_eos": True}]
        )
        jobs.append(job(i, prompt, random.choice([1, 5, 40, 300]), **options))
    return jobs


@settings(examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(random=st.randoms(use_true_random=False))
def test_after_any_mix_everything_is_given_back(engine: CpuEngine, random: Random) -> None:
    engine.reset()  # an example may be given up in the middle
    runner = Runner(engine)
    waiting = mixed_jobs(random)
    while waiting or engine.has_work():
        if waiting and random.random() < 0.6:
            runner.submit(waiting.pop())
        if runner.outcomes and random.random() < 0.15:
            engine.cancel(random.choice(list(runner.outcomes)))
        runner.step()
    runner.finish()
    assert all_free(engine)
    engine._table.validate([])


def test_a_cache_of_one_job_serves_many() -> None:
    engine = CpuEngine(EngineConfig(engine="cpu", cache_tokens=512, chunk_tokens=256, max_batch_size=4))
    engine.load(lambda _: None)
    outcomes = run(engine, *(job(i, filler(300, i), 10, ignore_eos=True) for i in range(3)))
    assert [len(outcome.token_ids) for outcome in outcomes.values()] == [10, 10, 10]
    assert all_free(engine)
    engine.close()
