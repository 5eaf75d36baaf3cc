"""The library's generator, page table and jobs under the engine: what comes out is what the model alone would say."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from actors.paging.hashes import page_hashes
from actors.results import FinishReason
from tests.engines.exllamav2.running import Outcome, greedy, job, note, prompt, reference, run
from tests.engines.exllamav2.standin import make_engine

LENGTHS = (1, 2, 255, 256, 257, 511, 513, 700)


def test_greedy_completions_equal_the_model_for_every_page_boundary(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=8192)
    prompts = {length: prompt(length, length) for length in LENGTHS}
    outcomes = run(engine, [greedy(length, ids, 40) for length, ids in prompts.items()])
    for length, ids in prompts.items():
        assert outcomes[length].token_ids == reference(ids, 40)
        assert outcomes[length].end.reason is FinishReason.LENGTH
        assert outcomes[length].end.completion_tokens == 40
        assert outcomes[length].started == 1


def test_completions_that_cross_pages_equal_the_model(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    outcomes = run(engine, [greedy(n, prompt(250 + n, n), 300) for n in range(3)])
    for n in range(3):
        assert outcomes[n].token_ids == reference(prompt(250 + n, n), 300)


def test_jobs_that_share_a_prefix_share_its_pages(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=8192)
    shared = prompt(700)
    prompts = [shared + prompt(5 + n, n + 1) for n in range(5)]
    outcomes = run(engine, [greedy(n, ids, 30) for n, ids in enumerate(prompts)])
    computed = sum(event.tokens for outcome in outcomes.values() for event in outcome.prefilled)
    for n, ids in enumerate(prompts):
        assert outcomes[n].token_ids == reference(ids, 30)
    assert computed < sum(map(len, prompts)) / 2
    assert outcomes[4].end.cached_tokens >= 512


def test_the_next_turn_of_a_conversation_finds_prompt_and_answer(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    first = prompt(300)
    answer = run(engine, [greedy(0, first, 300)])[0].token_ids
    second = first + answer + prompt(20, 9)
    outcome = run(engine, [greedy(1, second, 20)])[1]
    assert outcome.token_ids == reference(second, 20)
    assert outcome.end.cached_tokens >= 512
    assert outcome.prefilled[0].cached_tokens >= 512


def test_resident_pages_are_those_that_the_pool_predicts(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    ids = prompt(600)
    assert engine.resident_pages() == frozenset()
    answer = run(engine, [greedy(0, ids, 200)])[0].token_ids
    predicted = page_hashes(ids + answer)
    assert len(predicted) == 3
    assert set(predicted) <= engine.resident_pages()


def test_pages_are_not_resident_before_they_are_computed(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, chunk_tokens=256)
    outcomes = run(engine, [greedy(0, prompt(10), 100), greedy(1, prompt(1500, 1), 5)], steps=0)
    note(outcomes, engine.step())  # nobody streams yet: both prompts are computed in full chunks
    assert set(page_hashes(prompt(1500, 1))) <= engine.resident_pages()
    for _ in range(5):
        note(outcomes, engine.step())
    engine.submit(greedy(2, prompt(1000, 2), 5))
    engine.step()
    assert len(set(page_hashes(prompt(1000, 2))) & engine.resident_pages()) == 1


def test_a_page_that_another_prompt_is_still_computing_is_not_shared(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, chunk_tokens=256, exllamav2={"max_prefills": 1})
    first = prompt(200)
    answer = reference(first, 600)
    engine.submit(greedy(0, first, 60))
    received: dict[int, list[int]] = {0: [], 1: []}
    for step in range(400):
        if step == 50:  # the first job is about to complete its page; this prompt holds it, and its prefill is slow
            engine.submit(greedy(2, prompt(1500, 5), 5))
            engine.submit(greedy(1, first + answer[:400], 10))
        found: dict[int, Outcome] = {}
        note(found, engine.step())
        for job_id, outcome in found.items():
            received.setdefault(job_id, []).extend(outcome.token_ids)
    assert received[0] == answer[:60]
    assert received[1] == answer[400:410]


def test_everything_taken_is_given_back(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    before = engine.capacity()
    run(engine, [greedy(n, prompt(300, n), 30) for n in range(12)])
    assert engine.capacity() == before
    assert not engine.has_work()


def test_jobs_start_in_order_of_submission_even_where_a_later_one_would_fit(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=2048)
    jobs = [greedy(0, prompt(1000), 500), greedy(1, prompt(1000, 1), 500), greedy(2, prompt(10, 2), 10)]
    outcomes = run(engine, jobs, steps=10)
    assert [outcomes[n].started for n in range(3)] == [1, 0, 0]
    assert engine.capacity().pending_jobs == 2


def test_no_more_jobs_run_than_the_batch_holds(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=8192, max_batch_size=3)
    outcomes = run(engine, [greedy(n, prompt(5, n), 10) for n in range(8)], steps=1)
    assert sum(outcome.started for outcome in outcomes.values()) == 3
    assert engine.capacity().active_jobs == 3


def test_a_seed_gives_the_same_completion_alone_and_in_company(tmp_path: Path) -> None:
    settings = {"temperature": 1.2, "top_k": 40, "ignore_eos": True}
    alone = run(make_engine(tmp_path / "a"), [job(0, prompt(20), 60, seed=7, **settings)])[0]
    engine = make_engine(tmp_path / "b")
    company = [job(n, prompt(20, n), 60, seed=n, **settings) for n in range(1, 9)]
    together = run(engine, [*company, job(0, prompt(20), 60, seed=7, **settings)])[0]
    other = run(engine, [job(0, prompt(20), 60, seed=8, **settings)])[0]
    assert together.token_ids == alone.token_ids
    assert other.token_ids != alone.token_ids


def test_cancel_ends_a_job_and_frees_its_pages_and_leaves_the_others_alone(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, max_batch_size=2)
    outcomes = run(engine, [greedy(n, prompt(300, n), 50) for n in range(3)], steps=5)
    engine.cancel(0)
    engine.cancel(2)
    engine.cancel(99)
    note(outcomes, engine.step())
    assert outcomes[0].end.reason is outcomes[2].end.reason is FinishReason.CANCELLED
    assert outcomes[0].end.completion_tokens == len(outcomes[0].token_ids) > 0
    for _ in range(100):
        note(outcomes, engine.step())
    assert outcomes[1].token_ids == reference(prompt(300, 1), 50)
    assert engine.capacity().free_pages == engine.capacity().total_pages


def test_a_cancel_that_crosses_the_end_is_ignored(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    run(engine, [greedy(0, prompt(5), 3)])
    engine.cancel(0)
    assert engine.step() == []


def test_a_step_without_work_returns_at_once(tmp_path: Path) -> None:
    assert make_engine(tmp_path).step() == []


def test_defragmentation_keeps_the_cache_true(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=2048)
    for turn in range(6):
        outcomes = run(engine, [greedy(n, prompt(300 + 50 * n, turn * 10 + n), 60) for n in range(4)])
        for n in range(4):
            assert outcomes[n].token_ids == reference(prompt(300 + 50 * n, turn * 10 + n), 60)
    again = run(engine, [greedy(3, prompt(450, 53), 60)])[3]
    assert again.end.cached_tokens > 0
    assert again.token_ids == reference(prompt(450, 53), 60)


def test_close_gives_back_the_model_and_can_be_called_twice(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    assert engine._loaded is not None
    model = engine._loaded.generator.model
    engine.close()
    engine.close()
    assert model.unloaded


def test_nothing_of_the_cache_is_left_after_close(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    run(engine, [greedy(n, prompt(300, n), 10) for n in range(3)])
    cache = weakref.ref(engine._model.generator.cache.key_states[0])
    engine.close()
    assert cache() is None


def test_limits_describe_model_and_cache(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=2048, max_batch_size=5, eos_token_ids=(2, 7))
    limits = engine._model.limits
    assert (limits.total_pages, limits.max_batch_size, limits.context_tokens) == (8, 5, 2048)
    assert (limits.vocab_size, limits.eos_token_ids, limits.reserve_tokens) == (512, (2, 7), 0)


@pytest.mark.parametrize("length", [1, 2, 300])
def test_without_paged_attention_jobs_run_one_at_a_time(tmp_path: Path, length: int) -> None:
    engine = make_engine(tmp_path, paged=False)
    prompts = [prompt(length, n) for n in range(3)]
    outcomes = run(engine, [greedy(n, ids, 20) for n, ids in enumerate(prompts)])
    assert engine._model.limits.max_batch_size == 1
    for n, ids in enumerate(prompts):
        assert outcomes[n].token_ids == reference(ids, 20)
    assert engine.resident_pages() == frozenset()
    assert engine.capacity().free_pages == engine.capacity().total_pages
