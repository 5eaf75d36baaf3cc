"""Steps that are filled up with copies of a row: when it pays, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from actors.engines.exllamav2.padding import PADDED_ROWS, find_pad_from, rows_of_step
from tests.engines.exllamav2.running import greedy, prompt, reference, run
from tests.engines.exllamav2.standin import make_engine


def tried_on(step_s: Callable[[int], float], most_rows: int = 64) -> int | None:
    now_s = [0.0]

    def step(rows: int) -> None:
        now_s[0] += step_s(rows)

    return find_pad_from(step, most_rows, lambda: now_s[0])


@pytest.mark.parametrize(
    ("per_row_s", "padded_s", "expected"), [(1.0, 18.0, 20), (1.0, 40.0, None), (1.0, 5.0, 8), (1.0, 32.0, None)]
)
def test_padding_begins_where_the_padded_step_is_faster(
    per_row_s: float, padded_s: float, expected: int | None
) -> None:
    assert tried_on(lambda rows: padded_s if rows >= PADDED_ROWS else rows * per_row_s) == expected


def test_a_small_batch_is_never_padded() -> None:
    assert tried_on(lambda rows: float(rows < PADDED_ROWS), most_rows=7) is None
    assert tried_on(lambda rows: float(rows < PADDED_ROWS), most_rows=8) == 8


def test_only_steps_between_the_two_numbers_are_filled_up() -> None:
    assert [rows_of_step(rows, 16) for rows in (1, 15, 16, 32, 33, 64)] == [1, 15, 33, 33, 33, 64]
    assert rows_of_step(20, None) == 20


def test_filled_up_steps_give_every_job_what_it_would_get_without(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, cache_tokens=16384, max_batch_size=32)
    engine._model.generator.pad_from = 3
    calls = engine._model.generator.model.calls
    outcomes = run(engine, [greedy(n, prompt(250 + n, n), 20 + n) for n in range(6)])
    for n in range(6):
        assert outcomes[n].token_ids == reference(prompt(250 + n, n), 20 + n)
    decodes = {rows for rows, tokens, prefill in calls if tokens == 1 and not prefill}
    assert PADDED_ROWS in decodes
    assert not decodes & {3, 4, 5, 6}
    assert {1, 2} <= decodes


def test_trying_leaves_no_page_behind(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    engine._model.generator.fit_rows()
    engine.reset()
    assert engine.resident_pages() == frozenset()
    engine._model.generator.pad_from = None
    assert run(engine, [greedy(0, prompt(300), 20)])[0].token_ids == reference(prompt(300), 20)
