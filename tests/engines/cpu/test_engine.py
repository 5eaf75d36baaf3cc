from __future__ import annotations

import re
from random import Random
from typing import Any

import pytest
import torch

from actors.config import EngineConfig
from actors.engines.base import Engine
from actors.engines.cpu import CpuEngine
from actors.engines.cpu.model import PackedModel
from actors.errors import EngineFailure, InvalidRequest
from actors.request.grammar.kinds import MAX_GRAMMAR_CHARACTERS
from actors.results import FinishReason
from tests.engines.cpu.harness import EOS, TOKENIZER, Runner, alone, filler, ids_of, job, reference_tokens, run

OPENINGS = ["Once upon a time,", "One day", "<|user|>Hello!<|eos|><|assistant|>", "What is 2+3?", "The dog"]


def mixed_prompts(count: int) -> list[tuple[int, ...]]:
    """Short and long ones, some of them with a beginning in common."""
    random = Random(0)
    lengths = [0, 5, 40, 250, 256, 300, 600]
    return [ids_of(random.choice(OPENINGS)) + filler(random.choice(lengths), seed=i % 5) for i in range(count)]


def test_it_is_an_engine(engine: CpuEngine) -> None:
    checked: Engine = engine
    assert not checked.has_work()
    assert checked.step() == []


def test_greedy_tokens_of_mixed_concurrent_prompts_are_those_of_generate(engine: CpuEngine, reference: Any) -> None:
    prompts = mixed_prompts(32)
    lengths = [(12, 30, 60)[i % 3] for i in range(32)]
    runner = Runner(engine)
    for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        runner.submit(job(i, prompt, length))
        for _ in range(i % 3):  # some join together, some later
            runner.step()
    outcomes = runner.finish()
    for i, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        expected = reference_tokens(reference, prompt, length)
        assert outcomes[i].token_ids == expected, f"prompt {i}"
        assert outcomes[i].text == TOKENIZER.decode(expected)
        assert outcomes[i].end.reason is (FinishReason.LENGTH if len(expected) == length else FinishReason.STOP)


def test_a_completion_ends_at_eos_or_at_its_length(engine: CpuEngine) -> None:
    story = alone(engine, job(1, "Once upon a time,", 400))
    assert story.end.reason is FinishReason.STOP
    assert story.end.stop_token_id == EOS
    assert story.end.completion_tokens == len(story.token_ids) + 1
    assert EOS not in story.token_ids
    short = alone(engine, job(1, "Once upon a time,", 7))
    assert short.end.reason is FinishReason.LENGTH
    assert short.token_ids == story.token_ids[:7]
    assert short.end.completion_tokens == 7


def test_ignoring_eos_goes_on_to_the_full_length(engine: CpuEngine) -> None:
    outcome = alone(engine, job(1, "Once upon a time,", 300, ignore_eos=True))
    assert outcome.end.reason is FinishReason.LENGTH
    assert len(outcome.token_ids) == 300
    assert EOS in outcome.token_ids


def test_fewest_tokens_delay_the_end(engine: CpuEngine) -> None:
    plain = alone(engine, job(1, "Once upon a time,", 400))
    least = len(plain.token_ids) + 20
    longer = alone(engine, job(1, "Once upon a time,", 400, min_new_tokens=least))
    assert len(longer.token_ids) >= least
    assert EOS not in longer.token_ids
    assert longer.token_ids[: len(plain.token_ids)] == plain.token_ids


def test_stop_token_ids_end_beside_eos(engine: CpuEngine) -> None:
    plain = alone(engine, job(1, "Once upon a time,", 60))
    stop = plain.token_ids[10]
    first = plain.token_ids.index(stop)
    stopped = alone(engine, job(1, "Once upon a time,", 60, stop_token_ids=[stop]))
    assert stopped.token_ids == plain.token_ids[:first]
    assert (stopped.end.reason, stopped.end.stop_token_id) == (FinishReason.STOP, stop)


def test_stop_strings_end_across_tokens_and_are_not_shown(engine: CpuEngine) -> None:
    plain = alone(engine, job(1, "Once upon a time,", 60))
    middle = len(plain.text) // 2
    stop = plain.text[middle : middle + 9]  # cut anywhere, so it spans tokens
    stopped = alone(engine, job(1, "Once upon a time,", 60, stop=[stop, "never there"]))
    assert stopped.text == plain.text[: plain.text.index(stop)]
    assert (stopped.end.reason, stopped.end.stop_string) == (FinishReason.STOP, stop)
    assert stopped.token_ids == plain.token_ids[: len(stopped.token_ids)]
    assert stopped.text.startswith(TOKENIZER.decode(stopped.token_ids))


def test_a_stop_string_that_never_comes_changes_nothing(engine: CpuEngine) -> None:
    plain = alone(engine, job(1, "Once upon a time,", 60))
    same = alone(engine, job(1, "Once upon a time,", 60, stop=[plain.text[-3:] + "x", " was a giraffe"], logprobs=0))
    assert (same.text, same.token_ids) == (plain.text, plain.token_ids)
    assert [one.token_id for one in same.logprobs] == plain.token_ids


def test_fewest_tokens_hold_for_stop_strings_too(engine: CpuEngine) -> None:
    plain = alone(engine, job(1, "Once upon a time,", 60))
    stopped = alone(engine, job(1, "Once upon a time,", 60, stop=[" "], min_new_tokens=20))
    assert stopped.end.completion_tokens >= 20
    assert stopped.text.startswith(TOKENIZER.decode(plain.token_ids[:19]))
    assert stopped.end.stop_string == " "


def test_a_seed_gives_the_same_text_alone_and_in_company(engine: CpuEngine) -> None:
    settings: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95}
    lonely = alone(engine, job(1, "Once upon a time,", 60, seed=7, **settings))
    company = [job(i, "One day", 50, seed=i, temperature=1.2) for i in range(10, 16)]
    runner = Runner(engine)
    runner.submit(*company[:3])
    runner.step()
    runner.submit(job(1, "Once upon a time,", 60, seed=7, **settings), *company[3:])
    assert runner.finish()[1].token_ids == lonely.token_ids
    other = alone(engine, job(1, "Once upon a time,", 60, seed=8, **settings))
    assert other.token_ids != lonely.token_ids


def test_a_sampled_completion_can_go_on_where_it_stopped(engine: CpuEngine) -> None:
    whole = alone(engine, job(1, "Once upon a time,", 40, seed=3, temperature=1.0, ignore_eos=True))
    begun = ids_of("Once upon a time,") + tuple(whole.token_ids[:25])
    rest = alone(engine, job(1, begun, 15, seed=3, temperature=1.0, ignore_eos=True))
    assert rest.token_ids == whole.token_ids[25:]
    assert TOKENIZER.decode(whole.token_ids[:25]) + rest.text == whole.text


def test_logit_bias_bans_and_forces(engine: CpuEngine) -> None:
    first = alone(engine, job(1, "Once upon a time,", 1)).token_ids[0]
    assert alone(engine, job(1, "Once upon a time,", 1, logit_bias={first: -100.0})).token_ids[0] != first
    forced = alone(engine, job(1, "Once upon a time,", 5, logit_bias={777: 100.0}, temperature=1.0))
    assert forced.token_ids == [777] * 5


def test_penalties_change_the_text(engine: CpuEngine) -> None:
    plain = alone(engine, job(1, "Once upon a time,", 60, ignore_eos=True))
    spread = alone(engine, job(1, "Once upon a time,", 60, ignore_eos=True, repetition_penalty=10.0))
    assert len(set(spread.token_ids)) > len(set(plain.token_ids))
    penalties: list[dict[str, Any]] = [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}]
    for penalty in penalties:
        other = alone(engine, job(1, "Once upon a time,", 60, ignore_eos=True, **penalty))
        assert other.token_ids != plain.token_ids
        same = alone(engine, job(1, "Once upon a time,", 60, ignore_eos=True, repetition_range=0, **penalty))
        assert same.token_ids == plain.token_ids


def test_logprobs_are_those_of_the_raw_logits(engine: CpuEngine, reference: Any) -> None:
    prompt = ids_of("Once upon a time,")
    outcome = alone(engine, job(1, prompt, 20, seed=5, temperature=1.5, logprobs=3, repetition_penalty=1.3))
    with torch.inference_mode():
        logits = reference(torch.tensor([list(prompt) + outcome.token_ids])).logits[0]
    expected = logits[len(prompt) - 1 : -1].log_softmax(-1)
    assert [one.token_id for one in outcome.logprobs] == outcome.token_ids
    for row, one in zip(expected, outcome.logprobs, strict=True):
        assert one.logprob == pytest.approx(float(row[one.token_id]), abs=1e-3)
        best, ids = row.topk(3)
        assert [pair[0] for pair in one.top] == ids.tolist()
        assert [pair[1] for pair in one.top] == pytest.approx(best.tolist(), abs=1e-3)


def test_without_top_only_the_sampled_token_is_reported(engine: CpuEngine) -> None:
    outcomes = run(engine, job(1, "One day", 5, logprobs=0), job(2, "One day", 5))
    assert [len(one.top) for one in outcomes[1].logprobs] == [0] * 5
    assert outcomes[2].logprobs == []


def test_masked_sampled_and_free_jobs_share_a_batch(engine: CpuEngine) -> None:
    free = alone(engine, job(3, "Once upon a time,", 40))
    outcomes = run(
        engine,
        job(1, "What is 2+3?", 30, regex=r"[0-9]{3}-[a-c]{2}"),
        job(2, "One day", 30, json_schema={"enum": ["left", "right"]}, temperature=1.5, seed=1),
        job(3, "Once upon a time,", 40),
        job(4, "Once upon a time,", 40, temperature=1.0, top_k=20, min_p=0.05),
        job(5, "Hello", 30, lark='start: "x" "y"{1,5} "z"', temperature=1.0),
    )
    number, letters = outcomes[1].text.split("-")
    assert number.isdigit()
    assert set(letters) <= set("abc")
    assert outcomes[2].text in ('"left"', '"right"')
    assert outcomes[3].token_ids == free.token_ids
    assert re.fullmatch("xy{1,5}z", outcomes[5].text)
    assert {outcomes[i].end.reason for i in (1, 2, 5)} == {FinishReason.STOP}


@pytest.mark.parametrize("steps", [0, 1, 2, 6], ids=["pending", "prefill", "later prefill", "decode"])
def test_cancelling_ends_a_job_and_gives_everything_back(engine: CpuEngine, steps: int) -> None:
    runner = Runner(engine)
    runner.submit(job(1, filler(1000), 500, ignore_eos=True), job(2, "One day", 10))
    for _ in range(steps):
        runner.step()
    engine.cancel(1)
    runner.step()
    assert runner.outcomes[1].end.reason is FinishReason.CANCELLED
    outcomes = runner.finish()
    assert outcomes[2].end.reason is FinishReason.LENGTH
    capacity = engine.capacity()
    assert (capacity.free_pages, capacity.active_jobs, capacity.pending_jobs) == (48, 0, 0)


def test_cancelling_an_unknown_or_ended_job_does_nothing(engine: CpuEngine) -> None:
    alone(engine, job(1, "One day", 2))
    engine.cancel(1)
    engine.cancel(99)
    assert not engine.has_work()
    assert engine.step() == []


def test_jobs_wait_for_slots_in_order(engine: CpuEngine) -> None:
    runner = Runner(engine)
    runner.submit(*(job(i, "One day", 4 + i) for i in range(40)))
    runner.step()
    assert [i for i, outcome in runner.outcomes.items() if outcome.started] == list(range(32))
    assert engine.capacity().pending_jobs == 8
    assert all(outcome.end.reason is FinishReason.LENGTH for outcome in runner.finish().values())


def test_jobs_wait_for_pages_in_order(engine: CpuEngine) -> None:
    runner = Runner(engine)
    runner.submit(*(job(i, filler(9, i), 15 * 256) for i in range(4)), job(4, "One day", 3))  # 16 of 48 pages each
    runner.step()
    assert [outcome.started for outcome in runner.outcomes.values()] == [True, True, True, False, False]
    engine.cancel(1)
    runner.step()
    assert [outcome.started for outcome in runner.outcomes.values()] == [True, True, True, True, False]
    for i in (0, 2, 3):
        engine.cancel(i)
    assert runner.finish()[4].end.reason is FinishReason.LENGTH


def test_a_prompt_is_computed_in_chunks_beside_running_jobs(engine: CpuEngine) -> None:
    runner = Runner(engine)
    runner.submit(job(1, "Once upon a time,", 30))
    runner.step()
    runner.submit(job(2, filler(900), 5))
    for step in range(1, 4):
        runner.step()
        assert len(runner.outcomes[1].token_ids) == 1 + step
        assert runner.outcomes[2].prefilled_tokens == 256 * step
        assert runner.outcomes[2].token_ids == []
    runner.step()
    assert runner.outcomes[2].prefilled_tokens == 900
    assert len(runner.outcomes[2].token_ids) == 1
    runner.finish()


def test_short_prompts_share_a_step(engine: CpuEngine) -> None:
    runner = Runner(engine)
    runner.submit(*(job(i, filler(60, seed=i), 5) for i in range(6)))
    runner.step()
    assert [outcome.prefilled_tokens for outcome in runner.outcomes.values()] == [60, 60, 60, 60, 16, 0]
    runner.finish()


def test_a_failed_step_leaves_an_engine_that_works_after_a_reset(
    engine: CpuEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(engine, job(1, "Once upon a time,", 30))
    engine.reset()
    runner = Runner(engine)
    runner.submit(job(1, "Once upon a time,", 30), job(2, filler(700), 30))
    runner.step()
    runner.step()

    def explode(*_: object) -> None:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(PackedModel, "forward", explode)
        with pytest.raises(RuntimeError, match="no memory"):
            engine.step()
    engine.reset()
    assert not engine.has_work()
    assert engine.resident_pages() == frozenset()
    assert engine.capacity().free_pages == engine.capacity().total_pages
    assert alone(engine, job(1, "Once upon a time,", 30)).token_ids == expected.token_ids


def test_a_refused_job_changes_nothing(engine: CpuEngine) -> None:
    with pytest.raises(InvalidRequest):
        engine.submit(job(1, [5], 0))
    with pytest.raises(InvalidRequest, match="regex"):
        engine.submit(job(1, "One day", 5, regex="a" * (MAX_GRAMMAR_CHARACTERS + 1)))
    assert not engine.has_work()
    runner = Runner(engine)
    runner.submit(job(1, "One day", 5))
    with pytest.raises(InvalidRequest, match="there already"):
        engine.submit(job(1, "One day", 5))
    assert runner.finish()[1].end.reason is FinishReason.LENGTH


def test_a_closed_or_unloaded_engine_says_so() -> None:
    engine = CpuEngine(EngineConfig(engine="cpu"))
    assert not engine.has_work()
    assert engine.resident_pages() == frozenset()
    with pytest.raises(EngineFailure):
        engine.submit(job(1, "One day", 5))
    with pytest.raises(EngineFailure):
        engine.step()
    engine.close()
    engine.close()
