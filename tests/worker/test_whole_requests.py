"""Requests that are read only as a whole: what is made for them leaves the engine's thread in few large pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actors.engines.simulated import expected_tokens
from actors.worker import engine_thread
from actors.worker.engine_thread import QUIET_NEWS_S
from tests.worker.harness import PROMPT, request

TOKENS = 200
STEP_S = 0.001


def test_a_whole_request_comes_as_its_first_token_and_then_at_its_end(start: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_thread, "WHOLE_PIECE_S", 1e6)
    harness = start(step_s=STEP_S)
    harness.submit(replace(request(7, tokens=TOKENS), whole=True))
    (finished,) = harness.until_finished(7)
    assert tuple(harness.tokens["front", 7]) == expected_tokens(PROMPT, TOKENS)
    assert finished.completion_tokens == TOKENS
    assert sum(bool(news.outputs) for news in harness.news) <= 3  # one more, in the thread's first turn


def test_what_is_kept_of_whole_requests_leaves_from_time_to_time_all_together(start: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_thread, "WHOLE_PIECE_S", 20 * STEP_S)
    harness = start(step_s=STEP_S)
    harness.submit(*(replace(request(ticket, (*PROMPT, ticket), tokens=TOKENS), whole=True) for ticket in (7, 8)))
    harness.until_finished(7, 8)
    for ticket in (7, 8):
        assert tuple(harness.tokens["front", ticket]) == expected_tokens((*PROMPT, ticket), TOKENS)
    pieces = [news.outputs["front"].message().tickets for news in harness.news if news.outputs]
    assert 4 <= len(pieces) <= TOKENS / 10
    assert all(set(tickets) == {7, 8} for tickets in pieces[2:-1])


def test_steps_that_nobody_reads_are_told_together_and_none_is_forgotten(start: Any) -> None:
    harness = start(step_s=STEP_S)
    harness.submit(replace(request(7, tokens=TOKENS), whole=True))
    harness.until_finished(7)
    samples = [sample for news in harness.news for sample in (*news.earlier, news.sample) if sample is not None]
    assert len(samples) == TOKENS
    assert sum(news.generated_tokens for news in harness.news) == TOKENS
    spent_s = sum(sample.duration_s for sample in samples)
    assert len(harness.news) < spent_s / QUIET_NEWS_S + 10


def test_a_reader_beside_it_still_hears_of_every_step(start: Any) -> None:
    harness = start(step_s=STEP_S)
    harness.submit(replace(request(7, tokens=50), whole=True), request(8, (*PROMPT, 9), tokens=50))
    harness.until_finished(7, 8)
    assert tuple(harness.tokens["front", 8]) == expected_tokens((*PROMPT, 9), 50)
    assert sum(1 for news in harness.news if news.outputs) >= 50
