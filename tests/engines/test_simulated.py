"""The simulated engine keeps the engine protocol's promises, ExLlamaV2's page rules and its own timetable."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config import EngineConfig, SimulatedOptions
from actors.engines.base import Engine
from actors.engines.simulated import SimulatedEngine, expected_tokens
from actors.engines.simulated.engine import LOAD_STAGES
from actors.engines.simulated.faults import STALL_S
from actors.engines.simulated.schedule import MAX_LAG_S
from actors.engines.simulated.tokens import FIRST_TOKEN
from actors.errors import (
    ContextLengthExceeded,
    EngineFailure,
    FatalEngineError,
    InvalidRequest,
    ModelError,
    UnsupportedParameter,
)
from actors.messages import LoadProgress
from actors.paging.hashes import PAGE_TOKENS, page_hashes
from actors.results import FinishReason
from tests.engines.cpu.harness import Runner, alone, filler, job, run

PROMPT = tuple(range(10, 40))
STEP_S = 0.02


@dataclass
class ManualTime:
    """A clock that only sleeping moves, by `pace` times what was asked for."""

    now_s: float = 100.0
    pace: float = 1.0
    slept_s: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds * self.pace


def make(time: ManualTime | None = None, *, pages: int = 32, load: bool = True, **settings: Any) -> SimulatedEngine:
    """A loaded engine; `settings` are those of the engine's configuration, or of its simulated section."""
    time = time or ManualTime()
    simulated = {name: settings.pop(name) for name in list(settings) if name in SimulatedOptions.model_fields}
    config = EngineConfig(engine="simulated", cache_tokens=pages * PAGE_TOKENS, simulated=simulated, **settings)
    engine = SimulatedEngine(config, clock=time.clock, sleep=time.sleep)
    if load:
        engine.load(lambda _: None)
    return engine


def test_it_is_an_engine() -> None:
    checked: Engine = make()
    assert not checked.has_work()
    assert checked.step() == []


# Loading


def test_loading_takes_its_time_and_tells_how_far_it_is() -> None:
    time, seen = ManualTime(), list[LoadProgress]()
    engine = make(time, load=False, load_s=5.0, pages=7, max_batch_size=3, context_tokens=1000, vocab_size=512)
    limits = engine.load(seen.append)
    assert sum(time.slept_s) == pytest.approx(5.0)
    assert seen == [LoadProgress("weights", stage, LOAD_STAGES) for stage in range(LOAD_STAGES + 1)]
    assert (limits.total_pages, limits.max_batch_size, limits.context_tokens, limits.vocab_size) == (7, 3, 1000, 512)
    assert limits.eos_token_ids == (2,)


def test_it_fails_to_load_when_told_so() -> None:
    with pytest.raises(ModelError, match="fail_load"):
        make(fail_load=True)


def test_an_unloaded_or_closed_engine_says_so() -> None:
    engine = make(load=False)
    with pytest.raises(EngineFailure):
        engine.submit(job(1, PROMPT))
    engine.close()
    engine = make()
    engine.submit(job(1, PROMPT))
    engine.close()
    engine.close()
    assert not engine.has_work()
    with pytest.raises(EngineFailure):
        engine.submit(job(2, PROMPT))


# Tokens


@given(st.lists(st.integers(0, 2047), min_size=1, max_size=40), st.integers(0, 40), st.none() | st.integers(0, 2**62))
def test_a_completion_goes_on_the_same_from_any_point_of_itself(prompt: list[int], cut: int, seed: int | None) -> None:
    whole = expected_tokens(prompt, 40, seed)
    assert expected_tokens([*prompt, *whole[:cut]], 40 - cut, seed) == whole[cut:]
    assert all(FIRST_TOKEN <= token < 2048 for token in whole)


def test_tokens_depend_on_every_token_of_the_prompt_and_on_the_seed() -> None:
    plain = expected_tokens(PROMPT, 20)
    for place in range(len(PROMPT)):
        changed = (*PROMPT[:place], 99, *PROMPT[place + 1 :])
        assert expected_tokens(changed, 20) != plain
    assert len({expected_tokens(PROMPT, 20, seed) for seed in (None, *range(10))}) == 11


def test_the_engine_makes_the_expected_tokens_alone_and_in_company() -> None:
    company = [job(number, (*PROMPT, number), 30 + number) for number in range(2, 12)]
    outcomes = run(make(), job(1, PROMPT, 50), *company)
    for one in (job(1, PROMPT, 50), *company):
        outcome = outcomes[one.job_id]
        assert tuple(outcome.token_ids) == expected_tokens(one.token_ids, one.max_new_tokens)
        assert outcome.text == "".join(f" w{token}" for token in outcome.token_ids)
        assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.LENGTH, one.max_new_tokens)


def test_a_seed_counts_when_sampling_and_not_when_greedy() -> None:
    engine = make()
    assert tuple(alone(engine, job(1, PROMPT, 9, seed=5, temperature=1.0)).token_ids) == expected_tokens(PROMPT, 9, 5)
    assert tuple(alone(engine, job(1, PROMPT, 9, seed=5)).token_ids) == expected_tokens(PROMPT, 9)


def test_a_small_vocabulary_bounds_the_tokens() -> None:
    made = alone(make(vocab_size=12), job(1, (1, 2, 3), 60)).token_ids
    assert tuple(made) == expected_tokens((1, 2, 3), 60, vocab_size=12)
    assert set(made) <= set(range(FIRST_TOKEN, 12))


# Ends


def test_stop_strings_end_across_tokens_and_are_not_shown() -> None:
    plain = "".join(f" w{token}" for token in expected_tokens(PROMPT, 30))
    stop = plain[len(plain) // 2 : len(plain) // 2 + 9]
    outcome = alone(make(), job(1, PROMPT, 30, stop=[stop, "never there"]))
    assert outcome.text == plain[: plain.index(stop)]
    assert (outcome.end.reason, outcome.end.stop_string) == (FinishReason.STOP, stop)
    assert "".join(f" w{token}" for token in outcome.token_ids) in outcome.text


def test_a_stop_string_that_never_comes_changes_nothing() -> None:
    outcome = alone(make(), job(1, PROMPT, 30, stop=[" w", "wx"], min_new_tokens=30))
    assert tuple(outcome.token_ids) == expected_tokens(PROMPT, 29)  # the 30th completes the stop string " w"
    outcome = alone(make(), job(1, PROMPT, 30, stop=["wx"]))
    assert tuple(outcome.token_ids) == expected_tokens(PROMPT, 30)
    assert outcome.end.reason is FinishReason.LENGTH


def test_stop_token_ids_end_and_are_counted_but_not_shown() -> None:
    tokens = expected_tokens(PROMPT, 30)
    outcome = alone(make(), job(1, PROMPT, 30, stop_token_ids=[tokens[12]]))
    first = tokens.index(tokens[12])
    assert tuple(outcome.token_ids) == tokens[:first]
    assert (outcome.end.reason, outcome.end.stop_token_id) == (FinishReason.STOP, tokens[12])
    assert outcome.end.completion_tokens == first + 1


def test_fewest_tokens_delay_a_stop_token() -> None:
    tokens = expected_tokens(PROMPT, 40)
    delayed = alone(make(), job(1, PROMPT, 40, stop_token_ids=[tokens[3]], min_new_tokens=10))
    later = tokens.index(tokens[3], 10) if tokens[3] in tokens[10:] else 40
    assert tuple(delayed.token_ids) == tokens[:later]


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["pending", "prefill", "decode"])
def test_cancelling_ends_a_job_and_gives_everything_back(steps: int) -> None:
    engine = make(chunk_tokens=512)
    runner = Runner(engine)
    runner.submit(job(1, filler(1000), 500), job(2, PROMPT, 10))
    for _ in range(steps):
        runner.step()
    engine.cancel(1)
    runner.step()
    end = runner.outcomes[1].end
    assert (end.reason, end.completion_tokens) == (FinishReason.CANCELLED, len(runner.outcomes[1].token_ids))
    assert runner.finish()[2].end.reason is FinishReason.LENGTH
    capacity = engine.capacity()
    assert (capacity.free_pages, capacity.active_jobs, capacity.pending_jobs) == (32, 0, 0)


def test_cancelling_an_unknown_or_ended_job_does_nothing() -> None:
    engine = make()
    alone(engine, job(1, PROMPT, 2))
    engine.cancel(1)
    engine.cancel(99)
    assert not engine.has_work()
    assert engine.step() == []


@pytest.mark.parametrize(
    ("one", "error"),
    [
        (job(1, ()), InvalidRequest),
        (job(1, PROMPT, 0), InvalidRequest),
        (job(1, PROMPT, 3, top_k=5), UnsupportedParameter),
        (job(1, PROMPT, 32 * PAGE_TOKENS), ContextLengthExceeded),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_touched(one: Any, error: type[Exception]) -> None:
    engine = make()
    with pytest.raises(error):
        engine.submit(one)
    assert not engine.has_work()
    engine.submit(job(7, PROMPT, 2))
    with pytest.raises(InvalidRequest, match="there already"):
        engine.submit(job(7, PROMPT, 2))


# Pages and slots


def test_resident_pages_are_those_that_the_ids_predict() -> None:
    engine = make()
    outcome = alone(engine, job(1, filler(600), 200))
    written = (*filler(600), *outcome.token_ids[:-1])
    assert engine.resident_pages() == set(page_hashes((*written, 0)))
    assert len(engine.resident_pages()) == 3


def test_a_page_is_resident_once_its_last_token_is_computed() -> None:
    engine = make()
    runner = Runner(engine)
    runner.submit(job(1, filler(250), 20))
    runner.until(lambda: len(runner.outcomes[1].token_ids) == 6)
    assert engine.resident_pages() == frozenset()  # the sixth token is the 256th, and not yet computed
    runner.step()
    assert len(engine.resident_pages()) == 1
    runner.finish()


def test_whole_pages_of_a_prompt_are_not_computed_twice() -> None:
    engine = make()
    first = alone(engine, job(1, filler(700), 5))
    again = alone(engine, job(2, filler(700), 5))
    assert (first.prefilled_tokens, first.cached_tokens) == (699, 0)
    assert (again.prefilled_tokens, again.cached_tokens, again.end.cached_tokens) == (699 - 512, 512, 512)
    assert first.token_ids == again.token_ids


def test_running_jobs_share_pages() -> None:
    engine = make()
    runner = Runner(engine)
    runner.submit(*(job(i, (*filler(600), i), 100) for i in range(10, 18)))
    runner.step()
    assert engine.capacity().free_pages == 32 - (2 + 8)  # 701 tokens are 3 pages, of which 2 are common
    runner.finish()
    assert engine.capacity().free_pages == 32


def test_jobs_wait_for_pages_in_order_although_a_later_one_would_fit() -> None:
    engine = make(pages=8)
    runner = Runner(engine)
    runner.submit(job(1, filler(10, 1), 5 * 256), job(2, filler(10, 2), 5 * 256), job(3, PROMPT, 2))
    runner.step()
    assert [outcome.started for outcome in runner.outcomes.values()] == [True, False, False]
    assert engine.capacity().pending_jobs == 2
    engine.cancel(1)
    runner.step()
    assert [outcome.started for outcome in runner.outcomes.values()] == [True, True, True]
    runner.finish()


def test_jobs_wait_for_slots_in_order() -> None:
    engine = make(max_batch_size=3)
    runner = Runner(engine)
    runner.submit(*(job(i, (*PROMPT, i), 2 + i) for i in range(8)))
    runner.step()
    assert [i for i, outcome in runner.outcomes.items() if outcome.started] == [0, 1, 2]
    capacity = engine.capacity()
    assert (capacity.active_jobs, capacity.pending_jobs, capacity.max_batch_size) == (3, 5, 3)
    runner.finish()


def test_a_prompt_is_computed_in_chunks_beside_running_jobs() -> None:
    runner = Runner(make(chunk_tokens=256))
    runner.submit(job(1, PROMPT, 30))
    runner.step()
    runner.submit(job(2, filler(900), 5))
    for step in range(1, 4):
        runner.step()
        assert len(runner.outcomes[1].token_ids) == 1 + step
        assert (runner.outcomes[2].prefilled_tokens, runner.outcomes[2].token_ids) == (256 * step, [])
    runner.step()
    assert (runner.outcomes[2].prefilled_tokens, len(runner.outcomes[2].token_ids)) == (899, 1)
    runner.finish()


# Time


def test_steps_take_what_the_options_say() -> None:
    time = ManualTime()
    engine = make(time, step_s=STEP_S, step_s_per_job=0.001, prefill_tokens_per_s=10_000.0, chunk_tokens=512)
    runner = Runner(engine)
    runner.submit(job(1, filler(101, 1), 5))
    runner.step()
    assert time.now_s == pytest.approx(100.0 + STEP_S + 100 / 10_000)
    runner.submit(job(2, filler(201, 2), 5), job(3, filler(51, 3), 5))
    runner.step()
    assert time.slept_s[-1] == pytest.approx(STEP_S + 2 * 0.001 + 250 / 10_000)
    runner.step()
    assert time.slept_s[-1] == pytest.approx(STEP_S + 2 * 0.001)
    runner.finish()


def test_an_end_tells_how_long_prefill_and_generation_took() -> None:
    end = alone(make(step_s=STEP_S, chunk_tokens=256), job(1, filler(600), 11)).end
    assert end.prefill_s == pytest.approx(3 * STEP_S)  # the third chunk's step makes the first token too
    assert end.generate_s == pytest.approx(10 * STEP_S)


def test_steps_follow_one_another_without_drift() -> None:
    time = ManualTime(pace=1.3)  # every sleep is too long
    alone(make(time, step_s=STEP_S), job(1, PROMPT, 100))
    assert time.now_s - 100.0 == pytest.approx(100 * STEP_S, abs=0.3 * STEP_S)


def test_who_is_far_behind_gives_the_schedule_up() -> None:
    time = ManualTime()
    runner = Runner(make(time, step_s=STEP_S))
    runner.submit(job(1, PROMPT, 20))
    runner.step()
    time.slept_s.clear()
    time.now_s += MAX_LAG_S / 2
    runner.step()
    assert time.slept_s == [], "it hurries"
    time.now_s += MAX_LAG_S
    runner.step()
    assert time.slept_s == [pytest.approx(STEP_S)], "it does not hurry after what it cannot catch up with"


def test_an_idle_pause_is_no_delay() -> None:
    time = ManualTime()
    engine = make(time, step_s=STEP_S)
    alone(engine, job(1, PROMPT, 3))
    time.now_s += 0.1
    began_s = time.now_s
    alone(engine, job(2, PROMPT, 3))
    assert time.now_s - began_s == pytest.approx(3 * STEP_S)


def test_stamped_text_is_the_time_of_each_step() -> None:
    outcome = alone(make(step_s=STEP_S, stamp_text=True), job(1, PROMPT, 300))
    stamps = [float(text) for text in outcome.text.split()]
    assert stamps == pytest.approx([100.0 + STEP_S * (step + 1) for step in range(300)])


# Scripted failures


def test_a_step_fails_once_and_a_reset_makes_the_engine_whole() -> None:
    engine = make(fail_at_step=3)
    runner = Runner(engine)
    runner.submit(job(1, filler(300), 30), job(2, PROMPT, 30))
    runner.step()
    runner.step()
    with pytest.raises(RuntimeError, match="step 3"):
        engine.step()
    engine.reset()
    assert not engine.has_work()
    assert engine.resident_pages() == frozenset()
    assert engine.capacity().free_pages == engine.capacity().total_pages
    assert tuple(alone(engine, job(1, PROMPT, 30)).token_ids) == expected_tokens(PROMPT, 30)


def test_a_prompt_can_be_the_cause_of_failure_each_time() -> None:
    engine = make(fail_at_token=77)
    for _ in range(2):
        engine.submit(job(1, (77, 1, 2), 5))
        with pytest.raises(RuntimeError, match="token 77"):
            engine.step()
        engine.reset()
    assert tuple(alone(engine, job(1, (1, 77), 5)).token_ids) == expected_tokens((1, 77), 5)


class Gone(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("script", [{"exit_at_step": 2}, {"exit_at_token": 77}])
def test_the_process_ends_when_told_so(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def end(status: int) -> None:
        raise Gone(status)

    monkeypatch.setattr(os, "_exit", end)
    engine = make(**script)
    engine.submit(job(1, PROMPT, 5))
    engine.step()
    engine.submit(job(2, (77,), 5))
    with pytest.raises(Gone, match="1"):
        engine.step()


def test_a_step_hangs_when_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, timeout: waits.append(timeout))
    engine = make(stall_at_step=2)
    engine.submit(job(1, PROMPT, 5))
    engine.step()
    assert waits == []
    engine.step()
    assert waits == [STALL_S]


def test_submitting_hangs_for_the_prompt_that_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda _, timeout: waits.append(timeout))
    engine = make(stall_submit_at_token=77)
    engine.submit(job(1, PROMPT, 5))
    assert waits == []
    engine.submit(job(2, (77, 1), 5))
    assert waits == [STALL_S]


def test_a_step_tells_that_the_process_is_beyond_repair() -> None:
    engine = make(fatal_at_step=2)
    engine.submit(job(1, PROMPT, 5))
    engine.step()
    with pytest.raises(FatalEngineError, match="step 2"):
        engine.step()


def test_a_reset_fails_when_told_so_and_has_changed_nothing() -> None:
    engine = make(fail_at_step=2, fail_reset=True)
    engine.submit(job(1, PROMPT, 5))
    engine.step()
    with pytest.raises(RuntimeError, match="step 2"):
        engine.step()
    with pytest.raises(RuntimeError, match="reset"):
        engine.reset()
    assert engine.has_work()
    engine.close()


def test_closing_fails_when_told_so_and_the_engine_is_closed_all_the_same() -> None:
    engine = make(fail_close=True)
    engine.submit(job(1, PROMPT, 5))
    with pytest.raises(RuntimeError, match="closed"):
        engine.close()
    assert not engine.has_work()
    with pytest.raises(EngineFailure):
        engine.submit(job(2, PROMPT, 5))
