"""The built-in model on a GPU, in fp16 and in EXL2, says what it says in float32 on a CPU."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from actors.engines.model_dir import WeightKind, inspect_model_dir
from tests.engines.cpu.harness import alone, run
from tests.gpu.conftest import BIT_RATES, LoadEngine
from tests.gpu.expected import agreement, assert_equal_where_sure, cpu_outcomes, greedy_job, prompts

pytestmark = pytest.mark.gpu

GOLDEN: list[dict[str, Any]] = json.loads(Path("tests/builtin_model/golden.json").read_text(encoding="utf-8"))["cases"]
GOLDEN_MARGIN = 0.3
EXL2_AGREEMENT = {"4.0": 0.3, "6.0": 0.6}
"""The least mean share of tokens before the first difference from float32."""


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_fp16_gives_the_golden_text(load_engine: LoadEngine, case: dict[str, Any]) -> None:
    whole = case["smallest_margin"] >= GOLDEN_MARGIN
    sure = len(case["output_ids"]) if whole else case["smallest_margin_step"]
    job = greedy_job(0, case["prompt_ids"], case["max_tokens"], ignore_eos=False)
    outcome = alone(load_engine(), job)
    made = [*outcome.token_ids, *([outcome.end.stop_token_id] if outcome.end.stop_token_id is not None else [])]
    assert made[:sure] == case["output_ids"][:sure]
    if whole:
        assert outcome.text == case["output_text"]


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 31, 32, 33, 48, 64])
def test_a_batch_gives_every_job_what_it_would_get_on_a_cpu(load_engine: LoadEngine, batch: int) -> None:
    engine = load_engine()
    expected, asked = cpu_outcomes(), prompts()
    jobs = [greedy_job(number, asked[number % len(asked)]) for number in range(batch)]
    outcomes = run(engine, *jobs)
    compared = sum(
        assert_equal_where_sure(outcomes[number].token_ids, expected[number % len(asked)]) for number in range(batch)
    )
    assert compared > batch * 64 / 4
    assert engine.capacity().free_pages == engine.capacity().total_pages


def test_jobs_that_join_while_others_run_get_the_same(load_engine: LoadEngine) -> None:
    engine = load_engine()
    expected, asked = cpu_outcomes(), prompts()
    waiting = [greedy_job(number, ids) for number, ids in enumerate(asked)]
    received: dict[int, list[int]] = {job.job_id: [] for job in waiting}
    for step in range(2000):
        if waiting and step % 3 == 0:
            engine.submit(waiting.pop())
        if not waiting and not engine.has_work():
            break
        for event in engine.step():
            received[event.job_id] += getattr(event, "token_ids", ())
    assert sum(assert_equal_where_sure(received[n], expected[n]) for n in range(len(asked))) > 16 * 16


@pytest.mark.timeout(400)
@pytest.mark.parametrize("rate", BIT_RATES)
def test_exl2_says_nearly_what_float32_says(load_engine: LoadEngine, converted: dict[str, Path], rate: str) -> None:
    assert inspect_model_dir(converted[rate]).kind is WeightKind.EXL2
    engine = load_engine(model=converted[rate], engine="auto")
    expected = cpu_outcomes()
    outcomes = run(engine, *(greedy_job(number, ids) for number, ids in enumerate(prompts())))
    shares = [agreement(outcomes[number].token_ids, expected[number]) for number in range(len(expected))]
    assert statistics.mean(shares) > EXL2_AGREEMENT[rate], shares


@pytest.mark.timeout(400)
def test_more_bits_are_nearer_to_float32(load_engine: LoadEngine, converted: dict[str, Path]) -> None:
    expected = cpu_outcomes()
    errors = {}
    for rate in BIT_RATES:
        engine = load_engine(model=converted[rate], engine="auto")
        jobs = [greedy_job(number, ids, 1, logprobs=5) for number, ids in enumerate(prompts())]
        outcomes = run(engine, *jobs)
        errors[rate] = statistics.mean(
            abs(outcomes[number].logprobs[0].top[0][1] - one.logprobs[0].top[0][1])
            for number, one in enumerate(expected)
        )
    assert errors[BIT_RATES[1]] < errors[BIT_RATES[0]], errors


@pytest.mark.parametrize("mode", ["fp16", "q8", "q4"])
def test_steps_that_are_filled_up_give_the_same_logits(load_engine: LoadEngine, random_exl2: Path, mode: str) -> None:
    engine: Any = load_engine(model=random_exl2, engine="auto", cache_mode=mode)
    chosen = engine._model.generator.pad_from
    jobs = [greedy_job(number, range(300 + 7 * number, 340 + 9 * number), 12, logprobs=5) for number in range(10)]
    found = []
    try:
        for pad_from in (None, 2):
            engine._model.generator.pad_from = pad_from
            found.append(run(engine, *jobs))
            engine.reset()
    finally:
        engine._model.generator.pad_from = chosen
    compared = 0
    for number in range(10):
        for plain, filled in zip(found[0][number].logprobs, found[1][number].logprobs, strict=True):
            assert plain.logprob == pytest.approx(filled.logprob, abs=0.1)
            compared += 1
            if plain.token_id != filled.token_id:
                break
    assert compared > 60


@pytest.mark.parametrize(("mode", "least"), [("q8", 0.9), ("q6", 0.7), ("q4", 0.4)])
def test_a_quantised_cache_keeps_the_text(load_engine: LoadEngine, mode: str, least: float) -> None:
    engine = load_engine(cache_mode=mode)
    expected = cpu_outcomes()
    outcomes = run(engine, *(greedy_job(number, ids) for number, ids in enumerate(prompts())))
    shares = [agreement(outcomes[number].token_ids, expected[number]) for number in range(len(expected))]
    assert statistics.mean(shares) > least, shares


def test_a_gpu_is_chosen_for_the_built_in_model_where_there_is_one(load_engine: LoadEngine) -> None:
    engine = load_engine(engine="auto")
    outcome = alone(engine, greedy_job(0, prompts()[0]))
    assert_equal_where_sure(outcome.token_ids, cpu_outcomes()[0])
    assert type(engine).__name__ == "ExLlamaV2Engine"
