"""Whether a model fits: the estimate grows with what it should, and says what to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.builtin_model import builtin_model_path
from actors.config import PoolConfig
from cluster.doctor.facts import GpuProcess, Machine, Model
from cluster.doctor.findings import Finding, Level
from cluster.doctor.gather import read_model
from cluster.doctor.judge import all_good, judge_cluster, judge_machine, judge_node
from cluster.doctor.judge_model import judge_memory
from cluster.doctor.memory import memory_need, scratch_bytes
from cluster.doctor.wanted import Wanted
from tests.cluster.doctor.machines import GB, GOOD, GPU, HEAD, MODEL, wanted, with_gpus
from tests.cluster.doctor.test_judge import bad
from tests.cluster.doctor.test_judge_cluster import node

POOL = {"model": "/models/llama", "engine": "exllamav2"}
UNKNOWN = replace(MODEL, config={})


def pool(**settings: Any) -> PoolConfig:
    return PoolConfig(**{**POOL, **settings})


def needed_bytes(settings: PoolConfig, model: Model = MODEL, gpus: int = 1) -> int:
    need = memory_need(settings, model, None, gpus)
    assert need is not None
    return need.total_bytes(settings.cache_tokens or 0)


pages = st.integers(1, 4096).map(lambda count: count * 256)


@given(first=pages, second=pages, mode=st.sampled_from(["fp16", "q8", "q6", "q4"]), gpus=st.integers(1, 8))
def test_more_cache_takes_more_memory(first: int, second: int, mode: str, gpus: int) -> None:
    small, large = sorted((first, second))
    less, more = (needed_bytes(pool(cache_tokens=tokens, cache_mode=mode), gpus=gpus) for tokens in (small, large))
    assert less <= more
    assert (less < more) == (small < large)


@given(tokens=pages, gpus=st.integers(1, 7), weights=st.integers(1, 100 * GB))
def test_more_gpus_and_weights_take_more_memory_and_finer_caches_less(tokens: int, gpus: int, weights: int) -> None:
    model = replace(MODEL, weight_bytes=weights)
    by_mode = [
        needed_bytes(pool(cache_tokens=tokens, cache_mode=mode), model, gpus) for mode in ("fp16", "q8", "q6", "q4")
    ]
    assert by_mode == sorted(by_mode, reverse=True)
    assert by_mode[0] < needed_bytes(pool(cache_tokens=tokens), model, gpus + 1)
    assert by_mode[0] < needed_bytes(pool(cache_tokens=tokens), replace(model, weight_bytes=weights + 1), gpus)


@given(tokens=pages, free_gb=st.floats(0.0, 80.0))
def test_what_is_said_to_fit_is_what_is_counted(tokens: int, free_gb: float) -> None:
    settings = pool(cache_tokens=tokens, context_tokens=256)
    gpu = replace(GPU, total_bytes=80 * GB, free_bytes=int(free_gb * GB))
    found = judge_memory(settings, MODEL, None, (gpu,))
    assert (found.level is Level.OK) == (needed_bytes(settings) <= gpu.free_bytes)


@given(total_gb=st.integers(8, 80))
def test_a_cache_that_is_advised_fits(total_gb: int) -> None:
    gpu = replace(GPU, total_bytes=total_gb * GB, free_bytes=total_gb * GB)
    found = judge_memory(pool(cache_tokens=2**24), MODEL, None, (gpu,))
    assert found.level is Level.MISSING
    tokens = int(found.cure.split("about ")[1].split(",")[0])
    assert judge_memory(pool(cache_tokens=tokens, context_tokens=256), MODEL, None, (gpu,)).level is Level.OK


def test_a_cache_has_the_size_that_the_formula_gives() -> None:
    with_cache, without = pool(cache_tokens=65536), pool(cache_tokens=256)
    assert needed_bytes(with_cache) - needed_bytes(without) == (65536 - 256) * 2 * 32 * 8 * 128 * 2


def test_scratch_is_that_of_the_largest_module() -> None:
    head = 4096 * 128256 * 2  # its matrix is unpacked whole: less than 512 Mi weights
    assert scratch_bytes(pool(), MODEL) == head
    small = replace(MODEL, config={**MODEL.config, "vocab_size": 1000})
    assert scratch_bytes(pool(), small) == 2048 * (4096 + 2 * 14336) * 2 + 4096 * 14336 * 2


def on(machine: Machine, *settings: dict[str, Any], model: Model = MODEL) -> list[Finding]:
    return bad(judge_machine(replace(machine, models=(model,)), wanted(None, *settings)))


def test_a_model_that_fits_is_good() -> None:
    findings = judge_machine(replace(GOOD, models=(MODEL,)), wanted(None, {**POOL, "cache_tokens": 65536}))
    assert bad(findings) == []
    (memory,) = [finding for finding in findings if finding.check == "memory"]
    assert "5.0 GB of weights" in memory.told
    assert "8.0 GB of fp16 cache for 65536 tokens" in memory.told


def test_a_cache_as_large_as_it_comes_fits() -> None:
    assert on(GOOD, POOL) == []


@pytest.mark.parametrize(
    ("settings", "free_gb", "words"),
    [
        ({"cache_tokens": 262144}, 23, "Lower cache_tokens to about 1"),
        ({"cache_tokens": 262144}, 23, "use cache_mode q8, q6 or q4"),
        ({"cache_tokens": 65536}, 6, "end python (pid 7)"),
        ({"cache_tokens": 65536, "gpus_per_worker": 2}, 23, "add GPUs"),
        ({"cache_tokens": 65536, "gpus_per_worker": 0.5}, 6, "end python (pid 7)"),
    ],
)
def test_what_does_not_fit_is_told_with_a_cure(settings: dict[str, Any], free_gb: int, words: str) -> None:
    gpu = replace(GPU, free_bytes=free_gb * GB, processes=(GpuProcess(7, "python", None),))
    (found,) = on(with_gpus(GOOD, gpu), {**POOL, **settings})
    assert (found.check, found.level) == ("memory", Level.MISSING)
    assert words in found.cure


def test_weights_that_are_too_large_want_more_gpus() -> None:
    large = replace(MODEL, weight_bytes=38 * GB)
    (found,) = on(GOOD, POOL, model=large)
    assert "more GPUs than 1" in found.cure
    two = with_gpus(GOOD, GPU, replace(GPU, index=1))
    assert on(two, {**POOL, "gpus_per_worker": 2, "context_tokens": 1024}, model=large) == []


def test_a_draft_model_counts() -> None:
    draft = replace(MODEL, path="/models/draft")
    settings = {**POOL, "cache_tokens": 65536, "exllamav2": {"draft_model": "/models/draft"}}
    machine = replace(GOOD, models=(MODEL, draft))
    (found,) = bad(judge_machine(machine, wanted(None, settings)))
    assert "10.0 GB of weights" in found.told
    absent = replace(GOOD, models=(MODEL, replace(draft, error="There is no model directory /models/draft.")))
    (found,) = bad(judge_machine(absent, wanted(None, settings)))
    assert (found.check, found.level) == ("model", Level.MISSING)


def test_a_cache_below_one_job_is_a_warning() -> None:
    (found,) = on(GOOD, {**POOL, "cache_tokens": 4096})
    assert (found.check, found.level) == ("memory", Level.WARNING)
    assert "8192" in found.told


def test_a_model_whose_size_nobody_knows_is_a_warning() -> None:
    (found,) = on(GOOD, POOL, model=UNKNOWN)
    assert (found.check, found.level) == ("memory", Level.WARNING)


@pytest.mark.parametrize(
    ("model", "engine", "words"),
    [
        (replace(MODEL, error="There is no model directory /models/llama."), "auto", "There is no model"),
        (replace(MODEL, kind="exl3"), "auto", "no engine here reads"),
        (MODEL, "cpu", "CPU engine cannot read"),
    ],
)
def test_a_model_that_cannot_run_is_missing(model: Model, engine: str, words: str) -> None:
    (found,) = on(GOOD, {**POOL, "engine": engine}, model=model)
    assert (found.check, found.level) == ("model", Level.MISSING)
    assert words in found.told


def test_a_model_for_gpus_wants_one() -> None:
    assert [finding.check for finding in on(HEAD, {**POOL, "engine": "auto"})] == ["GPU"]
    assert on(HEAD, {**POOL, "engine": "auto"}, model=replace(MODEL, kind="unquantised")) == []
    assert on(HEAD, {**POOL, "engine": "simulated"}) == []
    head = node(replace(HEAD, models=(MODEL,)))
    assert [finding.check for finding in bad(judge_cluster([head], wanted(None, POOL)))] == ["GPUs"]


def test_a_head_needs_no_model_that_runs_elsewhere() -> None:
    absent = replace(MODEL, error="There is no model directory /models/llama.")
    assert all_good(judge_node(node(replace(HEAD, models=(absent,))), wanted(None, POOL)))
    gpu_node = node(replace(GOOD, models=(absent,)), gpus_of_ray=1.0)
    assert not all_good(judge_node(gpu_node, wanted(None, POOL)))


def test_the_built_in_model_is_read_from_its_files(tmp_path: Path) -> None:
    model = read_model(builtin_model_path())
    assert (model.error, model.kind, model.config["num_key_value_heads"]) == (None, "unquantised", 2)
    assert memory_need(PoolConfig(), model, None, 1) is not None
    assert "no config.json" in str(read_model(tmp_path).error)


def test_wanted_paths_are_those_of_the_pools(tmp_path: Path) -> None:
    pools = (PoolConfig(model=tmp_path), PoolConfig(), PoolConfig(model=tmp_path))
    assert Wanted("0", MODEL, pools=pools).model_paths == (str(tmp_path),)
