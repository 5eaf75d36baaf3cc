"""How much prompt a step computes: no more than running streams can bear, and all that soon fills the batch."""

from __future__ import annotations

from pathlib import Path

from actors.engines.base import EngineEvent, Prefilled
from actors.engines.exllamav2.engine import ExLlamaV2Engine
from tests.engines.exllamav2.running import greedy, note, prompt, reference, run
from tests.engines.exllamav2.standin import make_engine


def prefilled(events: list[EngineEvent]) -> dict[int, int]:
    return {event.job_id: event.tokens for event in events if isinstance(event, Prefilled) and event.tokens}


def sampled(engine: ExLlamaV2Engine) -> dict[int, int]:
    """Tokens of each running job, those included whose text is incomplete."""
    return {job.job_id: len(job.sampled) for job in engine._model.generator.active_jobs}


def flowing(engine: ExLlamaV2Engine) -> ExLlamaV2Engine:
    """With a stream that has shown a few tokens and goes on for long."""
    engine.submit(greedy(0, prompt(10), 3000))
    for _ in range(6):
        engine.step()
    return engine


def test_a_flowing_stream_waits_for_one_chunk_at_most(tmp_path: Path) -> None:
    engine = flowing(make_engine(tmp_path, cache_tokens=16384, chunk_tokens=512))
    for number in (1, 2, 3):
        engine.submit(greedy(number, prompt(1500, number), 5))
    for _ in range(8):
        before = sampled(engine)[0]
        tokens = prefilled(engine.step())
        assert 0 < sum(tokens.values()) <= 512
        assert len(tokens) <= 2
        assert sampled(engine)[0] == before + 1


def test_prompts_are_computed_in_order_of_arrival(tmp_path: Path) -> None:
    engine = flowing(make_engine(tmp_path, cache_tokens=16384, chunk_tokens=512, exllamav2={"max_prefills": 1}))
    outcomes = run(engine, [greedy(number, prompt(1200, number), 3) for number in (1, 2, 3)], steps=30)
    first = [outcomes[number].first_step for number in (1, 2, 3)]
    assert all(step is not None for step in first)
    assert first == sorted(first, key=lambda step: step or 0)
    assert len(set(first)) == 3


def test_jobs_that_arrive_just_after_the_first_ones_start_with_them(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=65536, max_batch_size=32)
    outcomes = run(engine, [greedy(0, prompt(20), 40)], steps=2)
    late = [greedy(number, prompt(20 + number, number), 40) for number in range(1, 20)]
    for job in late:
        engine.submit(job)
    note(outcomes, engine.step())
    assert sampled(engine) == {0: 3} | dict.fromkeys(range(1, 20), 1)
    while engine.has_work():
        note(outcomes, engine.step())
    for number in range(1, 20):
        assert outcomes[number].token_ids == reference(prompt(20 + number, number), 40)


def test_of_many_long_prompts_the_first_ones_do_not_wait_for_all(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=65536, model={"max_input_len": 2048})
    for number in range(15):
        engine.submit(greedy(number, prompt(4000, number), 5))
    tokens = prefilled(engine.step())
    assert set(tokens) == set(range(8))
    assert sum(tokens.values()) == 16384
