"""Ways to load a model that are not the usual one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.engines.registry import create_engine
from actors.errors import ModelError
from actors.messages import LoadProgress
from tests.engines.cpu.harness import Outcome, run
from tests.gpu.conftest import LoadEngine
from tests.gpu.expected import assert_equal_where_sure, cpu_outcomes, greedy_job, prompts

pytestmark = pytest.mark.gpu

ADAPTED = ("q_proj", "v_proj", "down_proj")
RANK = 4
ALPHA = 8


def check(engine: Any, expected: tuple[Outcome, ...]) -> int:
    outcomes = run(engine, *(greedy_job(number, ids) for number, ids in enumerate(prompts())))
    return sum(assert_equal_where_sure(outcomes[number].token_ids, one) for number, one in enumerate(expected))


def test_without_flash_attention_attention_is_still_causal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from exllamav2 import attn

    monkeypatch.setattr(attn, "has_flash_attn_with_paged", False)
    engine = create_engine(EngineConfig(engine="exllamav2", cache_tokens=8192))
    assert engine.load(lambda _: None).max_batch_size == 1
    assert "ONE job at a time" in caplog.text
    assert check(engine, cpu_outcomes()) > 500
    engine.close()


def test_a_split_by_hand_loads_on_one_gpu(load_engine: LoadEngine) -> None:
    assert check(load_engine(exllamav2={"gpu_split": (8.0,)}), cpu_outcomes()) > 500


def test_a_split_that_is_too_small_is_told_as_missing_memory() -> None:
    engine = create_engine(EngineConfig(engine="exllamav2", cache_tokens=8192, exllamav2={"gpu_split": (0.001,)}))
    with pytest.raises(ModelError, match="GPU memory"):
        engine.load(lambda _: None)
    engine.close()


def test_tensor_parallel_gives_the_logits_of_one_gpu(load_engine: LoadEngine, random_exl2: Path) -> None:
    jobs = [greedy_job(number, range(300 + number, 340 + number), 1, logprobs=5) for number in range(4)]
    alone = run(load_engine(model=random_exl2, engine="auto"), *jobs)
    parallel = run(load_engine(model=random_exl2, engine="auto", exllamav2={"tensor_parallel": True}), *jobs)
    for number in range(4):
        mine, other = parallel[number].logprobs[0], alone[number].logprobs[0]
        assert mine.top[0][1] == pytest.approx(other.top[0][1], abs=0.1)


def test_weights_that_cannot_be_split_are_refused_before_they_are_read() -> None:
    engine = create_engine(EngineConfig(engine="exllamav2", exllamav2={"tensor_parallel": True}))
    with pytest.raises(ModelError, match="tensor_parallel splits EXL2 weights only"):
        engine.load(lambda _: None)


def test_progress_counts_to_the_end() -> None:
    told: list[LoadProgress] = []
    engine = create_engine(EngineConfig(engine="exllamav2", cache_tokens=8192))
    engine.load(told.append)
    engine.close()
    weights = [one for one in told if one.stage == "weights"]
    assert [one.done for one in weights] == sorted(one.done for one in weights)
    assert weights[-1].done == weights[-1].total > 3
    assert {one.stage for one in told} == {"weights", "tokenizer", "warm-up"}


def test_an_exception_from_progress_aborts_the_load_and_leaves_nothing() -> None:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()

    def stop(progress: LoadProgress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    engine = create_engine(EngineConfig(engine="exllamav2", cache_tokens=512 * 1024))
    with pytest.raises(KeyboardInterrupt):
        engine.load(stop)
    engine.close()
    assert torch.cuda.memory_allocated() < before + 2**24


def write_adapter(directory: Path) -> Path:
    """A random LoRA for the built-in model."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, weight in load_file(builtin_model_path() / "model.safetensors").items():
        if any(f".{part}." in name for part in ADAPTED):
            rows, columns = weight.shape
            key = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{key}.lora_A.weight"] = torch.randn((RANK, columns), generator=generator) * 0.1
            tensors[f"{key}.lora_B.weight"] = torch.randn((rows, RANK), generator=generator) * 0.1
    save_file(tensors, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "bias": "none"}))
    return directory


def write_merged(directory: Path, adapter: Path) -> Path:
    shutil.copytree(builtin_model_path(), directory)
    weights, tensors = load_file(directory / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name, weight in weights.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" in tensors:
            change = tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"] * (ALPHA / RANK)
            weights[name] = (weight.float() + change).half()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_a_lora_gives_what_the_merged_weights_give(tmp_path: Path, load_engine: LoadEngine) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    merged = CpuEngine(EngineConfig(model=write_merged(tmp_path / "merged", adapter), engine="cpu"))
    merged.load(lambda _: None)
    jobs = [greedy_job(number, ids, logprobs=5) for number, ids in enumerate(prompts())]
    made = run(merged, *jobs)
    merged.close()
    expected = tuple(made[number] for number in range(len(jobs)))
    assert any(mine.token_ids != base.token_ids for mine, base in zip(expected, cpu_outcomes(), strict=True))
    engine = load_engine(exllamav2={"lora": adapter})
    assert check(engine, expected) > 50
    engine.reset()
    assert check(engine, expected) > 50
