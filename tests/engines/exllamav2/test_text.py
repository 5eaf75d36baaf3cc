"""Stop tokens and strings, banned strings, token healing, characters in several tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.engines.exllamav2.engine import ExLlamaV2Engine
from actors.results import FinishReason
from tests.engines.exllamav2.running import greedy, prompt, reference, run
from tests.engines.exllamav2.standin import make_engine


def spelled(engine: ExLlamaV2Engine, token_ids: list[int]) -> str:
    return b"".join(engine._model.pieces.piece(token_id) for token_id in token_ids).decode(errors="replace")


def test_text_is_that_of_the_ids(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    outcome = run(engine, [greedy(0, prompt(30), 60)])[0]
    assert outcome.text == spelled(engine, outcome.token_ids)


def test_a_stop_token_ends_the_text_and_is_counted_but_not_shown(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    expected = reference(prompt(30), 20)
    outcome = run(engine, [greedy(0, prompt(30), 20, stop_token_ids=[expected[7]])])[0]
    assert outcome.token_ids == expected[:7]
    assert outcome.end.reason is FinishReason.STOP
    assert outcome.end.stop_token_id == expected[7]
    assert outcome.end.completion_tokens == 8


def test_every_end_of_sequence_token_of_the_model_ends_the_text(tmp_path: Path) -> None:
    expected = reference(prompt(30), 20)
    engine = make_engine(tmp_path, eos_token_ids=(2, expected[4]))
    outcome = run(engine, [greedy(0, prompt(30), 20, ignore_eos=False)])[0]
    assert outcome.token_ids == expected[:4]
    ignored = run(engine, [greedy(1, prompt(30), 20)])[1]
    assert ignored.token_ids == expected


def test_min_new_tokens_keeps_stop_tokens_from_being_sampled(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    expected = reference(prompt(30), 20)
    wanted = {"stop_token_ids": [expected[3]], "min_new_tokens": 8}
    outcome = run(engine, [greedy(0, prompt(30), 20, **wanted)])[0]
    assert len(outcome.token_ids) >= 8
    assert expected[3] not in outcome.token_ids[:8]
    assert outcome.token_ids[:3] == expected[:3]


@pytest.mark.parametrize("place", [3, 8])
def test_a_stop_string_over_several_tokens_ends_the_text_before_it(tmp_path: Path, place: int) -> None:
    engine = make_engine(tmp_path)
    expected = reference(prompt(31), 40)
    text = spelled(engine, expected)
    stop = text[place : place + 4]
    outcome = run(engine, [greedy(0, prompt(31), 40, stop=[stop])])[0]
    assert outcome.text == text[: text.find(stop)]
    assert outcome.end.reason is FinishReason.STOP
    assert outcome.end.stop_string == stop
    assert outcome.token_ids == expected[: len(outcome.token_ids)]
    assert engine.capacity().free_pages == engine.capacity().total_pages


def test_a_stop_string_that_never_completes_is_shown_at_the_end(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    text = spelled(engine, reference(prompt(31), 10))
    outcome = run(engine, [greedy(0, prompt(31), 10, stop=[text[-2:] + "never"])])[0]
    assert outcome.text == text
    assert outcome.end.reason is FinishReason.LENGTH


def test_text_held_for_a_stop_string_is_shown_when_a_stop_token_ends_the_job(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    expected = reference(prompt(31), 12)
    text = spelled(engine, expected[:11])
    stops = {"stop": [text[-1:] + "never"], "stop_token_ids": [expected[11]]}
    outcome = run(engine, [greedy(0, prompt(31), 12, **stops)])[0]
    if expected[11] not in expected[:11]:
        assert outcome.text == text


def test_the_first_token_is_emitted_in_the_step_that_samples_it(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    outcome = run(engine, [greedy(0, prompt(31), 10)])[0]
    assert outcome.first_step == 0


def test_a_healed_token_shows_only_what_it_adds(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    tokenizer = engine._model.generator.tokenizer
    letter = int(tokenizer.encode("a")[0, 0])
    outcome = run(engine, [greedy(0, [*prompt(20), letter], 10, token_healing=True)])[0]
    assert engine._model.pieces.piece(outcome.token_ids[0]).startswith(b"a")
    assert "a" + outcome.text == spelled(engine, outcome.token_ids)
    assert outcome.end.completion_tokens == len(outcome.token_ids) == 10
    plain = run(engine, [greedy(1, [letter], 3, token_healing=True)])[1]
    assert len(plain.token_ids) == 3


def test_a_banned_string_at_the_very_end_is_not_shown(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    for count in range(4, 12):
        text = spelled(engine, reference(prompt(31), count))
        outcome = run(engine, [greedy(count, prompt(31), count, banned_strings=[text[-1]])])[count]
        assert text[-1].lower() not in outcome.text.lower()


def test_several_banned_strings_are_taken_back_over_page_borders(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    banned = ["a", "e", "qu"]
    outcome = run(engine, [greedy(0, prompt(250), 40, banned_strings=banned)])[0]
    assert not any(text in outcome.text.lower() for text in banned)
    assert outcome.text.lstrip("\ufffd") == spelled(engine, outcome.token_ids)
    assert outcome.end.completion_tokens == 40
    follow_up = prompt(250) + outcome.token_ids + prompt(5, 3)
    assert run(engine, [greedy(1, follow_up, 10)])[1].token_ids == reference(follow_up, 10)


def test_healing_behind_a_broken_character_shows_nothing_of_the_prompt(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    tokenizer = engine._model.generator.tokenizer
    broken = tokenizer.encode("\u20ac")[0].tolist()[0]
    healed = [*prompt(20), broken, tokenizer.single_id("ga")]
    outcome = run(engine, [greedy(0, healed, 6, token_healing=True, banned_strings=["a"])])[0]
    assert outcome.token_ids[0] == healed[-1]
    assert outcome.text == spelled(engine, outcome.token_ids[1:])
