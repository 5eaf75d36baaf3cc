"""A completion that goes on elsewhere, from its prompt and what was told of it, is the one that it would have been."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from actors.engines.cpu import CpuEngine
from tests.engines.cpu.harness import filler, job
from tests.engines.resuming import assert_resumes
from tests.properties import examples

OPENINGS = ["Once upon a time,", "<|user|>Hello!<|eos|><|assistant|>", "What is 2+3?", "Héllo wörld, 🙂"]
STOPS = [" the", "e w", "s.", "\n", ".", "nd a"]

lengths = st.lists(st.integers(min_value=0, max_value=30), min_size=1, max_size=3)
prompts = st.one_of(st.sampled_from(OPENINGS), st.integers(250, 262).map(lambda tokens: filler(tokens, seed=tokens)))
params = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 0.8, 1.5])},
    optional={
        "stop": st.lists(st.sampled_from(STOPS), min_size=1, max_size=3).map(tuple),
        "min_new_tokens": st.integers(0, 20),
        "repetition_penalty": st.sampled_from([1.1, 1.7]),
        "presence_penalty": st.sampled_from([-1.5, 0.7]),
        "frequency_penalty": st.sampled_from([0.3, 1.0]),
        "repetition_range": st.sampled_from([3, 20, -1]),
        "top_k": st.sampled_from([5, 50]),
        "top_p": st.sampled_from([0.5, 0.95]),
        "min_p": st.just(0.05),
        "logprobs": st.sampled_from([0, 3]),
        "logit_bias": st.just({300: 3.0, 2: 2.0}),
        "stop_token_ids": st.just(tuple(range(300, 330))),
        "ignore_eos": st.booleans(),
    },
)


@examples(60)
@given(prompt=prompts, params=params, seed=st.integers(0, 2**40), lengths=lengths, tokens=st.integers(1, 40))
@example(prompt=OPENINGS[0], params={"temperature": 0.0, "stop": (" the",)}, seed=0, lengths=[1], tokens=40)
@example(
    prompt=OPENINGS[0],
    params={"temperature": 0.8, "min_new_tokens": 10, "logit_bias": {2: 50.0}},
    seed=3,
    lengths=[0, 0, 6],
    tokens=20,
)
@example(
    prompt=OPENINGS[0],
    params={"temperature": 0.8, "min_new_tokens": 10, "stop": ("e", "a", "t", " ")},
    seed=3,
    lengths=[6],
    tokens=20,
)
def test_what_is_broken_off_goes_on_as_it_would_have(
    loaded_engine: CpuEngine, prompt: Any, params: dict[str, Any], seed: int, lengths: list[int], tokens: int
) -> None:
    loaded_engine.reset()
    assert_resumes(loaded_engine, job(1, prompt, tokens, seed=seed, **params), lengths)


SCHEMA = '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "n": {"type": "integer"}}}'
GRAMMARS: list[dict[str, Any]] = [
    {"json_schema": SCHEMA},
    {"regex": "(yes|no|[a-z]{3,9}),? [0-9]{1,4}é🙂"},
    {"lark": 'start: "a" ("b" | "cd")+ "."'},
]


@examples(25)
@given(
    prompt=st.sampled_from(OPENINGS),
    grammar=st.sampled_from(GRAMMARS),
    params=st.fixed_dictionaries({"temperature": st.sampled_from([0.0, 1.0])}, optional={"min_new_tokens": st.just(5)}),
    seed=st.integers(0, 2**40),
    lengths=lengths,
)
def test_a_grammar_goes_on_where_it_stood(
    loaded_engine: CpuEngine,
    prompt: str,
    grammar: dict[str, Any],
    params: dict[str, Any],
    seed: int,
    lengths: list[int],
) -> None:
    loaded_engine.reset()
    assert_resumes(loaded_engine, job(1, prompt, 40, seed=seed, **grammar, **params), lengths)
