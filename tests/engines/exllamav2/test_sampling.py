"""Every sampling parameter through the engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.engines.exllamav2 import job as job_module
from actors.results import FinishReason
from actors.sampling import PARAMETER_NAMES
from tests.engines.exllamav2.running import greedy, job, prompt, reference, run
from tests.engines.exllamav2.standin import make_engine, next_logits

EVERY_SAMPLER: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 20},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.1},
    "top_a": {"top_a": 0.2},
    "tfs": {"tfs": 0.9},
    "typical_p": {"typical_p": 0.9},
    "skew": {"skew": 0.5},
    "temperature_last": {"temperature": 0.7, "temperature_last": True, "top_k": 20},
    "smoothing_factor": {"smoothing_factor": 0.3},
    "min_temp": {"min_temp": 0.5, "max_temp": 1.5, "temp_exponent": 2.0},
    "max_temp": {"max_temp": 1.5},
    "temp_exponent": {"max_temp": 1.5, "temp_exponent": 2.0},
    "xtc_probability": {"xtc_probability": 0.5},
    "xtc_threshold": {"xtc_probability": 0.5, "xtc_threshold": 0.2},
    "mirostat": {"mirostat": True},
    "mirostat_tau": {"mirostat": True, "mirostat_tau": 3.0},
    "mirostat_eta": {"mirostat": True, "mirostat_eta": 0.5},
    "repetition_penalty": {"repetition_penalty": 1.2},
    "repetition_range": {"repetition_penalty": 1.2, "repetition_range": 5},
    "repetition_decay": {"repetition_penalty": 1.2, "repetition_range": 5, "repetition_decay": 5},
    "presence_penalty": {"presence_penalty": 1.0},
    "frequency_penalty": {"frequency_penalty": 1.0},
    "dry_multiplier": {"dry_multiplier": 0.8},
    "dry_base": {"dry_multiplier": 0.8, "dry_base": 2.0},
    "dry_allowed_length": {"dry_multiplier": 0.8, "dry_allowed_length": 1},
    "dry_range": {"dry_multiplier": 0.8, "dry_range": 64},
    "logit_bias": {"logit_bias": {40: 5.0, 41: -100.0}},
    "stop": {"stop": ["zz"]},
    "stop_token_ids": {"stop_token_ids": [40]},
    "banned_strings": {"banned_strings": ["a"]},
    "token_healing": {"token_healing": True},
    "logprobs": {"logprobs": 3},
    "min_new_tokens": {"min_new_tokens": 5},
    "ignore_eos": {"ignore_eos": True},
    "json_schema": {"json_schema": {"type": "integer", "minimum": 0, "maximum": 99}},
    "regex": {"regex": "[ab]{3}"},
    "lark": {"lark": 'start: "a" "b"'},
    "max_new_tokens": {"max_new_tokens": 30},
    "seed": {"seed": 1},
}


def test_every_parameter_is_tried_here() -> None:
    assert set(EVERY_SAMPLER) == PARAMETER_NAMES


@pytest.mark.parametrize("name", sorted(EVERY_SAMPLER))
def test_every_sampler_runs_and_a_seed_reproduces_it(tmp_path: Path, name: str) -> None:
    engine = make_engine(tmp_path, cache_tokens=8192)
    wanted = {key: value for key, value in EVERY_SAMPLER[name].items() if key not in {"max_new_tokens", "seed"}}
    same = [prompt(40), prompt(40), prompt(40, 1)]
    outcomes = run(engine, [job(n, ids, 30, seed=5, **wanted) for n, ids in enumerate(same)])
    for outcome in outcomes.values():
        assert outcome.end.reason in {FinishReason.LENGTH, FinishReason.STOP}, outcome.end.error
    assert outcomes[0].token_ids == outcomes[1].token_ids
    assert outcomes[0].text == outcomes[1].text


@pytest.mark.parametrize(
    "wanted",
    [
        {"temperature": 0.0},
        {"top_k": 50},
        {"top_p": 0.9, "temperature": 0.8},
        {"min_p": 0.05},
        {"top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1},
        {"temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 0.5},
        {"min_p": 0.1, "presence_penalty": 1.5},
    ],
    ids=str,
)
def test_sampling_from_candidates_gives_the_text_of_the_librarys_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]
) -> None:
    jobs = [job(n, prompt(30, n), 80, seed=n, ignore_eos=True, logprobs=2, **wanted) for n in range(8)]
    few = make_engine(tmp_path / "few", cache_tokens=8192)
    from_candidates = run(few, jobs)
    rows = few._model.generator._sampler.full_rows
    monkeypatch.setattr(job_module, "cut_of", lambda params: None)
    whole = make_engine(tmp_path / "whole", cache_tokens=8192)
    from_rows = run(whole, jobs)
    assert whole._model.generator._sampler.full_rows >= 8 * 80
    assert rows < 8 * 80 / 2
    for n in range(8):
        assert from_candidates[n].token_ids == from_rows[n].token_ids
        for mine, theirs in zip(from_candidates[n].logprobs, from_rows[n].logprobs, strict=True):
            assert mine.token_id == theirs.token_id
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert [pair[1] for pair in mine.top] == pytest.approx([pair[1] for pair in theirs.top], abs=1e-4)


@pytest.mark.parametrize("wanted", [{"temperature": 0.0}, {"temperature": 1.0}], ids=str)
def test_logprobs_are_those_of_the_raw_logits_in_float32(tmp_path: Path, wanted: dict[str, Any]) -> None:
    engine = make_engine(tmp_path)
    penalties: dict[str, Any] = {"repetition_penalty": 1.5, "logit_bias": {40: 10.0}}
    outcome = run(engine, [job(0, prompt(20), 15, logprobs=4, ignore_eos=True, **wanted, **penalties)])[0]
    ids = prompt(20)
    assert len(outcome.logprobs) == len(outcome.token_ids)
    for token_id, entry in zip(outcome.token_ids, outcome.logprobs, strict=True):
        expected = torch.log_softmax(next_logits(ids).float(), dim=-1)
        assert entry.token_id == token_id
        assert entry.logprob == pytest.approx(float(expected[token_id]), abs=1e-4)
        assert [pair[1] for pair in entry.top] == pytest.approx(expected.topk(4).values.tolist(), abs=1e-4)
        assert all(math.isfinite(pair[1]) for pair in entry.top)
        ids.append(token_id)


def test_logprobs_of_the_sampled_token_alone_have_no_others(tmp_path: Path) -> None:
    outcome = run(make_engine(tmp_path), [greedy(0, prompt(20), 5, logprobs=0)])[0]
    assert [entry.top for entry in outcome.logprobs] == [()] * 5


def test_logprobs_stay_with_their_ids_when_tokens_are_taken_back(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    outcome = run(engine, [greedy(0, prompt(20), 30, logprobs=0, banned_strings=["a", "e", "o", "cd"])])[0]
    assert [entry.token_id for entry in outcome.logprobs] == outcome.token_ids


def test_a_presence_penalty_looks_at_the_completion_alone(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    for seed in range(60):
        ids = prompt(60, seed)
        if reference(ids, 1)[0] in ids:
            penalised = run(engine, [greedy(seed, ids, 1, presence_penalty=2.0, frequency_penalty=2.0)])[seed]
            assert penalised.token_ids == reference(ids, 1)
            return
    raise AssertionError("no prompt holds its own continuation")


@pytest.mark.parametrize("reach", [-1, 0, 1, 3])
def test_a_frequency_penalty_counts_the_completion_within_its_range(tmp_path: Path, reach: int) -> None:
    engine = make_engine(tmp_path)
    ids, made, few = prompt(20), list[int](), range(300, 305)
    for _ in range(10):
        logits, counted = next_logits(ids + made).float(), made if reach < 0 else made[max(len(made) - reach, 0) :]
        logits[few] += 100.0
        for token_id in set(counted):
            logits[token_id] -= 2.0 * counted.count(token_id) + 1.0
        made.append(int(logits.argmax()))
    wanted = {"frequency_penalty": 2.0, "presence_penalty": 1.0, "repetition_range": reach}
    outcome = run(engine, [greedy(0, ids, 10, logit_bias=dict.fromkeys(few, 100.0), **wanted)])[0]
    assert outcome.token_ids == made


def test_a_bias_is_added_before_anything_else(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    assert run(engine, [greedy(0, prompt(20), 5, logit_bias={77: 100.0})])[0].token_ids == [77] * 5
    first = reference(prompt(20), 1)[0]
    assert first not in run(engine, [greedy(1, prompt(20), 5, logit_bias={first: -100.0})])[1].token_ids


def test_a_schema_gives_a_document_that_it_accepts(tmp_path: Path) -> None:
    engine = make_engine(tmp_path)
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 120}, "ok": {"type": "boolean"}},
        "required": ["age", "ok"],
        "additionalProperties": False,
    }
    jobs = [job(n, prompt(20, n), 100, seed=n, json_schema=schema) for n in range(5)]
    outcomes = run(engine, [*jobs, greedy(9, prompt(20, 9), 30)])
    for n in range(5):
        document = json.loads(outcomes[n].text)
        assert 0 <= document["age"] <= 120
        assert isinstance(document["ok"], bool)
        assert outcomes[n].end.reason is FinishReason.STOP
    assert outcomes[9].token_ids == reference(prompt(20, 9), 30)


def test_a_grammar_ends_with_the_text_even_if_eos_is_to_be_ignored(tmp_path: Path) -> None:
    outcome = run(make_engine(tmp_path), [job(0, prompt(20), 50, regex="[ab]{4}", ignore_eos=True)])[0]
    assert len(outcome.text) == 4
    assert outcome.end.reason is FinishReason.STOP


def test_a_grammar_with_drafting_is_still_obeyed(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, exllamav2={"ngram_draft": True})
    outcome = run(engine, [job(0, prompt(20), 50, regex="(abc){3,6}")])[0]
    assert set(outcome.text.replace("abc", "")) == set()
    assert outcome.end.reason is FinishReason.STOP
