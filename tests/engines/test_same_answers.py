"""The same request gives the same kind of answer on every engine: one test for each row of docs/answers.md.

An engine's own greedy answer, left alone, says what a row is about: which token comes as the N-th, and what it spells.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.config import EngineConfig
from actors.engines.base import Engine
from actors.engines.cpu import CpuEngine
from actors.engines.simulated import SimulatedEngine
from actors.errors import InvalidRequest, UnsupportedParameter
from actors.results import FinishReason
from tests.engines.answer_bench import PLAIN_TOKENS, Bench, LettersModel
from tests.engines.cpu.harness import ids_of, job
from tests.engines.exllamav2.running import prompt
from tests.engines.exllamav2.standin import make_engine

TABLE = Path(__file__).parents[2] / "docs" / "answers.md"


@pytest.fixture(scope="module", params=["cpu", "exllamav2", "simulated"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    engine: Engine
    if request.param == "cpu":
        engine = CpuEngine(EngineConfig(engine="cpu", cache_tokens=4096))
        made = Bench(engine, engine.load(lambda _: None), ids_of("Once upon a time,"))
    elif request.param == "exllamav2":
        engine = make_engine(tmp_path_factory.mktemp("model"), model={"made_by": LettersModel})
        made = Bench(engine, engine._model.limits, tuple(prompt(30)))
    else:
        engine = SimulatedEngine(
            EngineConfig(engine="simulated", cache_tokens=4096, simulated={"step_s": 0.0, "load_s": 0.0})
        )
        made = Bench(engine, engine.load(lambda _: None), tuple(range(10, 40)))
    yield made
    engine.close()


def test_the_table_has_a_row_for_every_test() -> None:
    named = set(re.findall(r"`(test_\w+)`", TABLE.read_text(encoding="utf-8")))
    here = {name for name in vars(sys.modules[__name__]) if name.startswith("test_")}
    assert named == here - {"test_the_table_has_a_row_for_every_test"}


# Length


@pytest.mark.parametrize("count", [1, 2, 7])
def test_max_new_tokens(bench: Bench, count: int) -> None:
    outcome = bench.answer(count, ignore_eos=True)
    assert outcome.token_ids == bench.tokens[:count]
    assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.LENGTH, count)


# Stop tokens


def test_stop_token(bench: Bench) -> None:
    outcome = bench.answer(PLAIN_TOKENS, ignore_eos=True, stop_token_ids=[bench.tokens[bench.new - 1]])
    assert (outcome.token_ids, outcome.text) == (bench.tokens[: bench.new - 1], bench.spelled(bench.new - 1))
    assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.STOP, bench.new)
    assert outcome.end.stop_token_id == bench.tokens[bench.new - 1]


def test_stop_token_first(bench: Bench) -> None:
    outcome = bench.answer(5, stop_token_ids=[bench.tokens[0]])
    assert (outcome.text, outcome.token_ids) == ("", [])
    assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.STOP, 1)


def test_stop_token_as_the_last(bench: Bench) -> None:
    outcome = bench.answer(bench.new, ignore_eos=True, stop_token_ids=[bench.tokens[bench.new - 1]])
    assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.STOP, bench.new)


def test_stop_token_before_min_new_tokens(bench: Bench) -> None:
    stop = {"stop_token_ids": [bench.tokens[bench.new - 1]], "ignore_eos": True}
    same = bench.answer(PLAIN_TOKENS, min_new_tokens=bench.new - 1, **stop)
    assert (same.end.reason, same.end.completion_tokens) == (FinishReason.STOP, bench.new)
    longer = bench.answer(PLAIN_TOKENS, min_new_tokens=bench.new, **stop)
    assert len(longer.token_ids) >= bench.new
    assert longer.token_ids[: bench.new - 1] == bench.tokens[: bench.new - 1]
    if longer.token_ids[bench.new - 1] == bench.tokens[bench.new - 1]:  # one that cannot choose says it, and goes on
        assert isinstance(bench.engine, SimulatedEngine)


def test_end_of_sequence(bench: Bench) -> None:
    eos = bench.limits.eos_token_ids[0]
    ended = bench.answer(12, min_new_tokens=5, logit_bias={eos: 100.0})
    assert (len(ended.token_ids), ended.end.completion_tokens) == (5, 6)
    assert (ended.end.reason, ended.end.stop_token_id) == (FinishReason.STOP, eos)
    ignored = bench.answer(12, ignore_eos=True, logit_bias={eos: 100.0})
    assert (ignored.token_ids, ignored.text) == ([eos] * 12, "")
    assert ignored.end.reason is FinishReason.LENGTH


# Stop strings


def test_stop_string(bench: Bench) -> None:
    outcome = bench.answer(PLAIN_TOKENS, ignore_eos=True, stop=[bench.pair])
    assert outcome.text == bench.spelled(bench.new - 2)
    assert outcome.token_ids == bench.tokens[: bench.new - 2]
    assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.STOP, bench.new)
    assert outcome.end.stop_string == bench.pair


def test_stop_string_as_the_last(bench: Bench) -> None:
    outcome = bench.answer(bench.new, ignore_eos=True, stop=[bench.pair])
    assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.STOP, bench.new)


def test_stop_string_with_min_new_tokens(bench: Bench) -> None:
    same = bench.answer(PLAIN_TOKENS, ignore_eos=True, stop=[bench.pair], min_new_tokens=bench.new)
    assert (same.end.reason, same.end.completion_tokens) == (FinishReason.STOP, bench.new)
    assert same.text == bench.spelled(bench.new - 2)
    later = bench.answer(bench.new + 3, ignore_eos=True, stop=[bench.pair], min_new_tokens=bench.new + 1)
    assert later.text.startswith(bench.spelled(bench.new + 1))


def test_several_stop_strings(bench: Bench) -> None:
    later = "".join(bench.texts[bench.new - 1 : bench.new + 2])
    outcome = bench.answer(PLAIN_TOKENS, ignore_eos=True, stop=[later, bench.pair, bench.pair[1:]])
    assert outcome.text == bench.spelled(bench.new - 2)
    assert outcome.end.stop_string == bench.pair


def test_stop_string_that_is_never_complete(bench: Bench) -> None:
    outcome = bench.answer(bench.new, ignore_eos=True, stop=[bench.pair + "never"])
    assert (outcome.text, outcome.token_ids) == (bench.spelled(bench.new), bench.tokens[: bench.new])
    assert outcome.end.reason is FinishReason.LENGTH


def test_stop_string_begun_in_the_prompt(bench: Bench) -> None:
    longer = (*bench.prompt, *bench.tokens[: bench.new - 1])
    rest = bench.answer(5, prompt=longer, ignore_eos=True)
    outcome = bench.answer(5, prompt=longer, ignore_eos=True, stop=[bench.pair])
    assert (outcome.text, outcome.end.reason) == (rest.text, FinishReason.LENGTH)


def test_stop_string_and_stop_token(bench: Bench) -> None:
    both = {"stop": [bench.texts[bench.new - 1]], "stop_token_ids": [bench.tokens[bench.new - 1]]}
    outcome = bench.answer(PLAIN_TOKENS, ignore_eos=True, min_new_tokens=bench.new - 1, **both)
    assert outcome.end.stop_token_id == bench.tokens[bench.new - 1]
    assert outcome.text == bench.spelled(bench.new - 1)


# Grammars


def test_grammar_complete_at_max_new_tokens(bench: Bench) -> None:
    free = bench.answer(20, regex="[ab]{6}")
    tokens = len(free.token_ids)
    assert (len(free.text), free.end.completion_tokens) == (6, tokens)
    exact = bench.answer(tokens, regex="[ab]{6}", ignore_eos=True)
    assert (exact.text, exact.end.reason, exact.end.completion_tokens) == (free.text, FinishReason.STOP, tokens)
    short = bench.answer(tokens - 1, regex="[ab]{6}")
    assert (short.end.reason, short.end.completion_tokens) == (FinishReason.LENGTH, tokens - 1)


def test_grammar_wins_over_min_new_tokens(bench: Bench) -> None:
    outcome = bench.answer(20, regex="abab", min_new_tokens=12)
    assert (outcome.text, outcome.end.reason) == ("abab", FinishReason.STOP)


def test_grammar_of_stop_tokens_alone(bench: Bench) -> None:
    token = bench.answer(1, regex="[ab]+").token_ids[0]
    outcome = bench.answer(5, regex=bench.answer(1, regex="[ab]+").text, stop_token_ids=[token], min_new_tokens=3)
    assert outcome.end.reason is FinishReason.STOP


def test_grammar_and_stop_string(bench: Bench) -> None:
    outcome = bench.answer(20, regex="[ab]{3}[cd]{3}", stop=["c", "d"])
    assert (len(outcome.text), outcome.end.reason) == (3, FinishReason.STOP)
    assert outcome.end.stop_string in {"c", "d"}


# Choosing


def test_seed(bench: Bench) -> None:
    sampled = {"temperature": 1.5, "ignore_eos": True}
    first, other = bench.answer(20, seed=1, **sampled), bench.answer(20, seed=2, **sampled)
    assert bench.answer(20, seed=1, **sampled).token_ids == first.token_ids != other.token_ids


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}], ids=str)
def test_nothing_but_the_most_likely(bench: Bench, narrow: dict[str, Any]) -> None:
    assert bench.answer(20, temperature=1.0, seed=3, ignore_eos=True, **narrow).token_ids == bench.tokens[:20]


def test_bias_of_100(bench: Bench) -> None:
    never = dict.fromkeys(set(bench.tokens), -100.0)
    outcome = bench.answer(20, ignore_eos=True, logit_bias=never)
    assert not set(bench.tokens) & set(outcome.token_ids)
    token = bench.tokens[3]
    assert bench.answer(5, ignore_eos=True, logit_bias={token: 100.0}).token_ids == [token] * 5


def test_never_is_not_outweighed(bench: Bench) -> None:
    (first,) = bench.answer(1, regex="a|b").token_ids
    (second,) = bench.answer(1, regex="a|b", logit_bias={first: -50.0}).token_ids
    biased = bench.answer(1, regex="a|b", logit_bias={first: -100.0, second: -99.9999})
    assert biased.token_ids == [second]


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 3.0}], ids=str
)
def test_repetition_range(bench: Bench, penalty: dict[str, float]) -> None:
    few = {"logit_bias": dict.fromkeys(list(dict.fromkeys(bench.tokens))[:3], 40.0), "ignore_eos": True}
    without = bench.answer(10, **few).token_ids
    assert bench.answer(10, **few, **penalty, repetition_range=0).token_ids == without
    assert bench.answer(10, **few, **penalty, repetition_range=1).token_ids != without
    everywhere = bench.answer(10, **few, **penalty).token_ids
    assert bench.answer(10, **few, **penalty, repetition_range=10_000).token_ids == everywhere


# Reports


@pytest.mark.parametrize("count", [0, 1, 17, 18, 19, 20])
def test_logprobs(bench: Bench, count: int) -> None:
    for temperature in (0.0, 1.0):
        outcome = bench.answer(4, temperature=temperature, ignore_eos=True, logprobs=count)
        assert [entry.token_id for entry in outcome.logprobs] == outcome.token_ids
        assert [len(entry.top) for entry in outcome.logprobs] == [count] * 4
    greedy = bench.answer(4, ignore_eos=True, logprobs=max(count, 1))
    assert all(entry.top[0][0] == entry.token_id for entry in greedy.logprobs)


def test_logprobs_at_a_stop(bench: Bench) -> None:
    for stop in ({"stop": [bench.pair]}, {"stop_token_ids": [bench.tokens[bench.new - 1]]}):
        outcome = bench.answer(PLAIN_TOKENS, ignore_eos=True, logprobs=2, **stop)
        assert [entry.token_id for entry in outcome.logprobs] == outcome.token_ids


# Healing, banned strings


def test_token_healing(bench: Bench) -> None:
    healed = (*bench.prompt, bench.tokens[0])
    outcome = bench.answer(6, prompt=healed, ignore_eos=True, token_healing=True)
    assert len(outcome.token_ids) == outcome.end.completion_tokens == 6
    assert outcome.end.reason is FinishReason.LENGTH
    again = bench.answer(6, prompt=healed, ignore_eos=True, token_healing=True, stop=[bench.texts[0]])
    assert again.text == outcome.text, "what belongs to the prompt is no stop string"
    own = bench.answer(6, prompt=healed, ignore_eos=True, token_healing=True, stop_token_ids=[bench.tokens[0]])
    assert own.token_ids == outcome.token_ids, "nor a stop token"
    least = bench.answer(6, prompt=healed, token_healing=True, min_new_tokens=3, logit_bias={2: 100.0})
    assert (len(least.token_ids), least.end.completion_tokens) == (3, 4)


def test_token_healing_of_a_special_token(bench: Bench) -> None:
    special = (*bench.prompt, bench.limits.eos_token_ids[0])
    plain = bench.answer(6, prompt=special)
    assert bench.answer(6, prompt=special, token_healing=True).token_ids == plain.token_ids


def test_banned_strings(bench: Bench) -> None:
    outcome = bench.answer(20, ignore_eos=True, banned_strings=[bench.pair.upper()])
    assert bench.pair.lower() not in outcome.text.lower()
    assert outcome.token_ids[: bench.new - 2] == bench.tokens[: bench.new - 2]
    assert (outcome.end.reason, outcome.end.completion_tokens) == (FinishReason.LENGTH, 20)


def test_banned_string_and_stop_string(bench: Bench) -> None:
    first = bench.texts[bench.new - 2]
    outcome = bench.answer(20, ignore_eos=True, banned_strings=[bench.pair], stop=[first], min_new_tokens=bench.new - 1)
    assert (outcome.text, outcome.end.stop_string) == (bench.spelled(bench.new - 2), first)


def test_banned_strings_that_leave_nothing(bench: Bench) -> None:
    never = dict.fromkeys(set(range(bench.limits.vocab_size)) - {bench.tokens[0]}, -100.0)
    outcome = bench.answer(20, ignore_eos=True, banned_strings=[bench.texts[0] * 2], logit_bias=never)
    assert (outcome.end.reason, outcome.text) == (FinishReason.ERROR, "")
    assert isinstance(outcome.end.error, InvalidRequest)
    assert "banned_strings" in outcome.end.error.message


@pytest.mark.parametrize("with_grammar", ["banned_strings", "token_healing"])
def test_combinations_that_are_refused(bench: Bench, with_grammar: str) -> None:
    value: Any = {"banned_strings": ["x"], "token_healing": True}[with_grammar]
    with pytest.raises(InvalidRequest, match=with_grammar):
        job(0, bench.prompt, 5, regex="a+", **{with_grammar: value})


def test_what_an_engine_cannot_do(bench: Bench) -> None:
    asked: dict[str, Any] = {"logprobs": 1, "regex": "a", "banned_strings": ["x"], "token_healing": True, "min_p": 0.1}
    for name, value in asked.items():
        if name not in bench.limits.supported_parameters:
            with pytest.raises(UnsupportedParameter, match=name):
                bench.engine.submit(job(0, bench.prompt, 5, **{name: value}))
    assert not bench.engine.has_work()


def test_cancel(bench: Bench) -> None:
    bench.engine.submit(job(0, bench.prompt, 100, ignore_eos=True))
    for _ in range(5):
        bench.engine.step()
    bench.engine.cancel(0)
    (ended,) = bench.engine.step()
    assert getattr(ended, "reason", None) is FinishReason.CANCELLED
    assert bench.engine.capacity().free_pages == bench.limits.total_pages
