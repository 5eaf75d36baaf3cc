"""Models of many kinds, small and random: the engine's tokens are those of transformers, or the model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.errors import ModelError
from tests.engines.cpu.harness import filler, job, load_reference, reference_tokens, run
from tests.engines.cpu.random_models import EXPERTS, write_random_model

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped queries": ("LlamaConfig", {}),
    "one head of keys": ("LlamaConfig", {"num_key_value_heads": 1}),
    "biases": ("Qwen2Config", {}),
    "normed queries": ("Qwen3Config", {"head_dim": 32}),
    "a sliding window": ("MistralConfig", {"sliding_window": 20}),
    "a window in the mask alone": ("PhimoeConfig", EXPERTS | {"sliding_window": 20}),
    "a window in the masks of some layers alone": (
        "Qwen2MoeConfig",
        EXPERTS | {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 3, "num_experts": 4},
    ),
    "a window in every second layer, soft caps": (
        "Gemma2Config",
        {"sliding_window": 20, "head_dim": 16, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16},
    ),
    "learned positions": ("GPT2Config", {"n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 1024}),
    "rotated halves": ("GPTNeoXConfig", {"num_key_value_heads": 4}),
    "experts": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "attention sinks": (
        "GptOssConfig",
        {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 20},
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no attention": ("MambaConfig", {}, "MambaForCausalLM|positions|layers"),
    "an encoder": ("T5Config", {"d_model": 64, "num_layers": 2, "num_heads": 4, "d_kv": 16}, "encoder-decoder"),
}


@pytest.mark.parametrize("name", KINDS)
def test_greedy_tokens_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    write_random_model(tmp_path, *KINDS[name])
    engine = CpuEngine(EngineConfig(engine="cpu", model=tmp_path, cache_tokens=4096, chunk_tokens=256))
    engine.load(lambda _: None)
    prompts = [filler(length, length) for length in (3, 40, 270, 300)]
    prompts.append((*prompts[2], 77))
    outcomes = run(engine, *(job(i, prompt, 24, ignore_eos=True) for i, prompt in enumerate(prompts)))
    engine.close()
    reference = load_reference(tmp_path)
    for i, prompt in enumerate(prompts):
        expected = reference_tokens(reference, prompt, 24, eos_token_id=None, min_new_tokens=24)
        assert outcomes[i].token_ids == expected, f"prompt {i}"


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_keep_something_else_than_keys_and_values_are_refused(tmp_path: Path, name: str) -> None:
    kind, settings, words = REFUSED[name]
    write_random_model(tmp_path, kind, settings)
    engine = CpuEngine(EngineConfig(engine="cpu", model=tmp_path, cache_tokens=4096))
    with pytest.raises(ModelError, match=words):
        engine.load(lambda _: None)


LIMITED: dict[str, tuple[str, dict[str, Any]]] = {
    "the values' best so many": ("DogeConfig", {"keep_window_size": 40}),
    "a window in the cache alone": ("MoshiConfig", {"sliding_window": 40, "ffn_dim": 128, "num_key_value_heads": 4}),
}


@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_of_attention_that_cannot_be_served_is_one_of_the_context(tmp_path: Path, name: str) -> None:
    write_random_model(tmp_path, *LIMITED[name])
    settings: dict[str, Any] = {"engine": "cpu", "model": tmp_path, "cache_tokens": 4096}
    engine = CpuEngine(EngineConfig(**settings))
    with pytest.raises(ModelError, match=r"40 tokens.* Set context_tokens to 40\."):
        engine.load(lambda _: None)
    engine = CpuEngine(EngineConfig(**settings, context_tokens=40))
    engine.load(lambda _: None)
    prompt = filler(25)
    outcomes = run(engine, job(0, prompt, 14, ignore_eos=True))
    engine.close()
    expected = reference_tokens(load_reference(tmp_path), prompt, 14, eos_token_id=None, min_new_tokens=14)
    assert outcomes[0].token_ids == expected
