"""A completion that is broken off at any place and resumed is the one that was never broken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engines.base import EngineJob
from actors.engines.exllamav2.engine import ExLlamaV2Engine
from tests.engines.exllamav2.running import greedy, job, prompt, reference, run
from tests.engines.exllamav2.standin import VOCAB_SIZE, make_engine
from tests.engines.resuming import assert_resumes, resumed
from tests.fuzzing.exllamav2_reference import HalfRightModel, ScriptedModel
from tests.properties import examples

EOS = 2
LETTERS = "acdg"
DRAFTS = ("no", "ngram", "model")
SAMPLERS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 1.3, "top_k": 6},
    {"temperature": 0.8, "top_k": 12, "top_p": 0.9},
    {"min_p": 0.05},
    {"typical_p": 0.9, "skew": 0.3},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"max_temp": 1.5, "min_temp": 0.5},
)
PENALTIES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 1.5, "repetition_range": 6, "repetition_decay": 4},
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"frequency_penalty": 1.0, "repetition_range": 5},
    {"dry_multiplier": 1.0, "dry_allowed_length": 1},
    {"dry_multiplier": 1.0, "dry_allowed_length": 1, "dry_range": 25},
)
GRAMMARS: tuple[dict[str, Any], ...] = (
    {"regex": "([ac]{1,3}d){2,9}"},
    {"regex": "[acdg]{25,40}"},
    {"regex": "(a|c€|d){3,20}g"},
    {"lark": 'start: ("a" | "c" start "d")+ "g"'},
    {"json_schema": {"type": "array", "items": {"enum": ["a", "cd", "gg"]}, "minItems": 3, "maxItems": 6}},
)
Engines = Callable[[str], ExLlamaV2Engine]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Engines over a model that chooses among few tokens, by how they draft."""
    made: dict[str, ExLlamaV2Engine] = {}

    def engine(drafts: str) -> ExLlamaV2Engine:
        if drafts not in made:
            directory = tmp_path_factory.mktemp(drafts)
            options: dict[str, Any] = {"ngram": {"ngram_draft": True}, "model": {"draft_model": directory}}
            ScriptedModel.script = (EOS,)
            models = {"made_by": ScriptedModel, "draft_made_by": HalfRightModel}
            made[drafts] = make_engine(
                directory, draft=drafts == "model", exllamav2=options.get(drafts, {}), cache_tokens=4096, model=models
            )
        made[drafts].reset()
        return made[drafts]

    return engine


@pytest.fixture(scope="module")
def letters(engines: Engines) -> tuple[int, ...]:
    """Tokens of one letter and of two, and the bytes of a character."""
    tokenizer = engines("no")._model.generator.tokenizer
    texts = [*LETTERS, *(first + second for first in LETTERS for second in LETTERS)]
    return (*(int(tokenizer.encode(text)[0, 0]) for text in texts), *tokenizer.encode("€")[0].tolist())


def some_texts(random: Random, chance: float) -> list[str]:
    if random.random() > chance:
        return []
    lengths = [random.choice((1, 2, 2, 3, 3, 4)) for _ in range(random.choice((1, 2, 3)))]
    return ["".join(random.choices(LETTERS + "A€", k=length)) for length in lengths]


def some_prompt(random: Random, letters: Sequence[int]) -> list[int]:
    return random.choices(letters, k=random.choice((1, 2, 5, 20, 230, 240, 250, 254, 255, 256, 257, 500)))


def some_params(random: Random, drafts: str) -> dict[str, Any]:
    count = random.choice((3, 10, 20, 40))
    params: dict[str, Any] = {
        **random.choice(SAMPLERS),
        **random.choice(PENALTIES),
        "max_new_tokens": count,
        "seed": random.getrandbits(63),
        "stop": some_texts(random, 0.4),
        "ignore_eos": random.random() < 0.7,
        "min_new_tokens": random.choice((0, count // 2, count)),
        "stop_token_ids": random.sample(ScriptedModel.script, random.choice((0, 0, 0, 1))),
        "logprobs": random.choice((None, 0, 3)),
    }
    if random.random() < 0.2:
        params["logit_bias"] = {random.choice(ScriptedModel.script): 2.25, VOCAB_SIZE - 1: 29.0}
    if drafts == "no":
        params["banned_strings"] = some_texts(random, 0.5)
        params["token_healing"] = random.random() < 0.2
    return params


def some_breaks(random: Random, one: EngineJob) -> list[int]:
    """After how many tokens the job is broken off, and perhaps what goes on there after how many more."""
    return [random.randint(1, one.max_new_tokens) for _ in range(random.choice((1, 1, 2)))]


@examples(50)
@given(seed=st.integers(0, 2**32), drafts=st.sampled_from(("no", "no", "no", *DRAFTS)))
def test_a_resumed_completion_is_the_whole_one(
    engines: Engines, letters: tuple[int, ...], seed: int, drafts: str
) -> None:
    random, engine = Random(seed), engines(drafts)
    ScriptedModel.script = (*random.sample(letters, random.randint(4, len(letters))), EOS)
    one = job(0, some_prompt(random, letters), **some_params(random, drafts))
    assert_resumes(engine, one, some_breaks(random, one))
    assert engine.capacity().free_pages == engine.capacity().total_pages


@examples(20)
@given(seed=st.integers(0, 2**32), drafts=st.sampled_from(DRAFTS), grammar=st.sampled_from(GRAMMARS))
def test_a_resumed_document_is_the_whole_one(
    engines: Engines, letters: tuple[int, ...], seed: int, drafts: str, grammar: dict[str, Any]
) -> None:
    random, engine = Random(seed), engines(drafts)
    ScriptedModel.script = (*random.sample(letters, random.randint(4, len(letters))), EOS)
    params = {"temperature": random.choice((0.0, 1.0)), "stop": some_texts(random, 0.3), "min_new_tokens": 10}
    one = job(0, some_prompt(random, letters), 40, seed=seed, **params, **grammar)
    assert_resumes(engine, one, some_breaks(random, one))


def test_a_resumed_completion_in_company_is_the_whole_one(tmp_path: Any) -> None:
    engine = make_engine(tmp_path, cache_tokens=16384)
    settings: dict[str, Any] = {"temperature": 1.1, "top_k": 40, "ignore_eos": True, "presence_penalty": 0.5}
    jobs = [job(n, prompt(240 + 3 * n, n), 60, seed=n, **settings) for n in range(8)]
    whole = run(engine, jobs)
    engine.reset()
    rest = run(engine, [resumed(jobs[n], whole[n].token_ids[: 7 * n]) for n in range(8)])
    for n in range(8):
        assert rest[n].token_ids == whole[n].token_ids[7 * n :]
        assert rest[n].end.completion_tokens == 60 - 7 * n


def test_pages_of_a_resumed_completion_are_named_as_those_of_a_whole_one(tmp_path: Any) -> None:
    engine = make_engine(tmp_path)
    one = greedy(0, prompt(200), 400)
    answer = run(engine, [one])[0].token_ids
    pages = engine.resident_pages()
    engine.reset()
    rest = run(engine, [resumed(one, answer[:100])])[0]
    assert rest.token_ids == answer[100:]
    assert engine.resident_pages() == pages
    assert run(engine, [resumed(one, answer[:350])])[0].end.cached_tokens >= 512


def test_a_resumed_prompt_is_computed_as_fast_as_any_other(tmp_path: Any) -> None:
    engine = make_engine(tmp_path, cache_tokens=8192, chunk_tokens=256)
    one = greedy(0, prompt(1500), 20)
    outcome = run(engine, [resumed(one, reference(prompt(1500), 10))])[0]
    assert outcome.first_step == 0, "nobody streams that would have to wait for it"


def test_a_job_draws_one_number_for_a_place_however_often_it_is_asked(tmp_path: Any) -> None:
    engine = make_engine(tmp_path)
    engine.submit(job(0, prompt(20), 20, seed=3, ignore_eos=True))
    engine.step()
    (running,) = engine._model.generator.active_jobs
    before = running.draw()
    assert running.draw() == before
    engine.step()
    assert running.draw() != before


def test_a_place_that_is_tried_again_has_another_draw(tmp_path: Any) -> None:
    engine = make_engine(tmp_path)
    letters = "abcdefghijklmnopqrstuvwxyz"
    engine.submit(job(0, prompt(20), 30, seed=3, ignore_eos=True, banned_strings=list(letters)))
    drawn, steps = set(), 0
    while engine.has_work():
        drawn |= {each.draw() for each in engine._model.generator.active_jobs}
        engine.step()
        steps += 1
    assert len(drawn) == steps - 1 > 5, "each step but the first, where the job had not started, draws a new one"
