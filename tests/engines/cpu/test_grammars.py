"""Grammars on the CPU engine: whatever one does, the other jobs of its batch go on."""

from __future__ import annotations

import pytest

from actors.engines import grammar
from actors.engines.cpu import CpuEngine
from actors.errors import InvalidRequest
from actors.results import FinishReason
from tests.bombs import ENDLESS_BEHIND_SIX, ENDLESS_LARK
from tests.engines.cpu.harness import Runner, alone, job, run


def test_a_grammar_wins_over_fewest_tokens_and_ignored_eos(engine: CpuEngine) -> None:
    outcome = alone(engine, job(1, "One day", 30, regex="ab", min_new_tokens=10, ignore_eos=True))
    assert (outcome.text, outcome.end.reason) == ("ab", FinishReason.STOP)


def test_a_grammar_that_turns_out_too_complex_fails_its_job_alone(engine: CpuEngine) -> None:
    plain = alone(engine, job(2, "One day", 12))
    outcomes = run(engine, job(1, "Hello", 12, lark=ENDLESS_BEHIND_SIX), job(2, "One day", 12))
    assert outcomes[1].end.reason is FinishReason.ERROR
    assert isinstance(outcomes[1].end.error, InvalidRequest)
    assert "more than 0.25 s or 256 MiB to say what may come next" in outcomes[1].end.error.message
    assert outcomes[2].token_ids == plain.token_ids
    assert engine.capacity().free_pages == engine.capacity().total_pages
    with pytest.raises(InvalidRequest, match="what may come next"):
        engine.submit(job(3, "Hello", 12, lark=ENDLESS_BEHIND_SIX))


def test_a_grammar_that_is_never_compiled_holds_nobody_up(engine: CpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "COMPILE_CPU_S", 3600.0)
    plain = alone(engine, job(2, "One day", 12))
    runner = Runner(engine)
    runner.submit(job(1, "Hello", 12, lark=ENDLESS_LARK), job(2, "One day", 12))
    while not runner.outcomes[2].ended:
        runner.step()
    assert runner.outcomes[2].token_ids == plain.token_ids
    assert engine.has_work()
    assert engine.capacity().pending_jobs == 1
    engine.cancel(1)
    runner.step()
    assert runner.outcomes[1].end.reason is FinishReason.CANCELLED
    assert not engine.has_work()


def test_a_grammar_that_cannot_be_compiled_ends_its_job(engine: CpuEngine) -> None:
    outcome = alone(engine, job(1, "One day", 5, regex="("))
    assert outcome.end.reason is FinishReason.ERROR
    assert isinstance(outcome.end.error, InvalidRequest)
    assert outcome.token_ids == []
    with pytest.raises(InvalidRequest, match="unclosed group"):
        engine.submit(job(2, "One day", 5, regex="("))
