"""The simulated engine resumes like a model: tests of everything round an engine rely on that."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.config import EngineConfig
from actors.engines.simulated import SimulatedEngine
from tests.engines.cpu.harness import job
from tests.engines.resuming import assert_resumes

prompts = st.lists(st.integers(4, 60), min_size=1, max_size=300).map(tuple)
params = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 1.0])},
    optional={
        "stop": st.lists(st.sampled_from(["1 w", "w2", "3", "5 w1"]), min_size=1, max_size=2).map(tuple),
        "stop_token_ids": st.just(tuple(range(4, 12))),
        "min_new_tokens": st.integers(0, 30),
    },
)


@given(prompt=prompts, params=params, seed=st.integers(0, 99), lengths=st.lists(st.integers(0, 40), max_size=3))
def test_what_is_broken_off_goes_on_as_it_would_have(
    prompt: tuple[int, ...], params: dict[str, Any], seed: int, lengths: list[int]
) -> None:
    engine = SimulatedEngine(EngineConfig(engine="simulated", simulated={"step_s": 0.0, "vocab_size": 64}))
    engine.load(lambda _: None)
    assert_resumes(engine, job(1, prompt, 60, seed=seed, **params), lengths)
