"""What is found out about a model before its weights are read, and what is said when it cannot be loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import exllamav2
import pytest
import torch
from exllamav2 import ExLlamaV2Config

from actors.config import EngineConfig
from actors.engines.exllamav2 import loading, weights
from actors.engines.exllamav2.loading import load_model
from actors.engines.exllamav2.recovery import is_fatal
from actors.engines.exllamav2.weights import is_out_of_memory, prepare_config
from actors.engines.gpu_memory import GB, CacheShape, MemoryNeed, shortage
from actors.engines.model_dir import inspect_model_dir
from actors.errors import ConfigurationError, FatalEngineError, ModelError
from actors.messages import LoadProgress
from tests.benchmarks.make_model import Shape, make_model
from tests.engines.exllamav2.running import greedy, job, prompt, run
from tests.engines.exllamav2.standin import make_engine

SHAPE = Shape(
    hidden_size=256,
    intermediate_size=512,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=64,
    vocab_size=1024,
    context_tokens=2048,
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "model"
    make_model(directory, SHAPE)
    return directory


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """An EXL2 model whose config.json may be changed."""
    for file in made.iterdir():
        (tmp_path / file.name).hardlink_to(file)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def change(model: Path, *removed: str, **changes: Any) -> None:
    config = json.loads((model / "config.json").read_text()) | changes
    for name in removed:
        config.pop(name, None)
    (model / "config.json").write_text(json.dumps(config))


def prepared(model: Path, **settings: Any) -> tuple[Any, int]:
    return prepare_config(EngineConfig(model=model, **settings), inspect_model_dir(model))


def test_the_rope_of_transformers_5_is_read_which_the_library_does_not_do(model: Path) -> None:
    change(model, "rope_theta", "rope_scaling", rope_parameters={"rope_theta": 500000.0, **LLAMA3})
    assert ExLlamaV2Config(str(model)).rotary_embedding_base == 10000.0
    config, _ = prepared(model)
    assert config.rotary_embedding_base == 500000.0
    assert (config.alt_rope_method, config.l3_rope_factor) == ("llama3", 8.0)
    assert config.l3_rope_original_max_position_embeddings == 1024


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"rope_theta": 7.0, "rope_type": "default"}, {"rotary_embedding_base": 7.0, "alt_rope_method": None}),
        ({"rope_theta": 7.0, "rope_type": "linear", "factor": 4.0}, {"scale_pos_emb": 4.0}),
        (
            {"rope_theta": 7.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            {"alt_rope_method": "yarn", "yarn_rope_factor": 4.0, "yarn_rope_original_max_position_embeddings": 512},
        ),
    ],
    ids=lambda value: value.get("rope_type") if "rope_type" in value else "",
)
def test_every_kind_of_new_rope_reaches_the_library(
    model: Path, parameters: dict[str, Any], expected: dict[str, Any]
) -> None:
    change(model, "rope_theta", "rope_scaling", rope_parameters=parameters)
    config, _ = prepared(model)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"rope_theta": 7.0, "rope_type": "dynamic", "factor": 2.0}, "dynamic"),
        ({"rope_type": "default"}, "have no rope_theta"),
        ({"full_attention": {"rope_theta": 7.0}}, "one per kind of layer"),
        ({"rope_theta": 7.0, "rope_type": "linear"}, "lack 'factor'"),
    ],
    ids=["dynamic", "no base", "by layer", "no factor"],
)
def test_a_rope_that_would_be_read_wrongly_is_refused(model: Path, parameters: dict[str, Any], said: str) -> None:
    change(model, "rope_theta", "rope_scaling", rope_parameters=parameters)
    with pytest.raises(ModelError, match=said):
        prepared(model)


def test_the_rope_of_transformers_4_is_left_to_the_library(model: Path) -> None:
    config, _ = prepared(model)
    assert (config.rotary_embedding_base, config.alt_rope_method) == (500000.0, "llama3")


def test_an_unknown_architecture_is_not_loaded_as_llama(model: Path) -> None:
    change(model, architectures=["NobodyKnowsForCausalLM"])
    with pytest.raises(ModelError, match="does not know the architecture NobodyKnowsForCausalLM"):
        prepared(model)


def test_a_context_longer_than_the_models_needs_stretching(model: Path) -> None:
    assert prepared(model)[1] == 2048
    config, context_tokens = prepared(model, context_tokens=1000)
    assert (context_tokens, config.max_seq_len) == (1000, 1000)
    with pytest.raises(ModelError, match="made for 2048"):
        prepared(model, context_tokens=4096)
    config, context_tokens = prepared(model, context_tokens=4096, exllamav2={"rope_alpha": 2.0})
    assert (context_tokens, config.max_seq_len, config.scale_alpha_value) == (4096, 4096, 2.0)
    config, _ = prepared(model, context_tokens=4096, exllamav2={"rope_scale": 2.0})
    assert config.scale_pos_emb == 2.0


def test_a_batch_wider_than_a_forward_is_refused(model: Path) -> None:
    settings: dict[str, Any] = {"exllamav2": {"max_input_tokens": 256, "ngram_draft": True}}
    with pytest.raises(ModelError, match="max_input_tokens"):
        prepared(model, max_batch_size=64, **settings)
    prepared(model, max_batch_size=32, **settings)


def test_without_a_gpu_loading_says_so(model: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match="needs an NVIDIA GPU"):
        load_model(EngineConfig(model=model), lambda _: None)


def test_a_fault_that_the_library_asserts_becomes_a_sentence(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError(" ## Could not find lm_head.")

    monkeypatch.setattr(loading, "load_weights", fail)
    with pytest.raises(ModelError, match=r"cannot load .*: Could not find lm_head\.$"):
        load_model(EngineConfig(model=model), lambda _: None)


def test_ends_outside_the_logits_fail_no_job(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, eos_token_ids=(2, 512, 128009, -1))
    try:
        assert engine.load(lambda _: None).eos_token_ids == (2,)
        kept = job(1, prompt(1, 5), 6, min_new_tokens=6, temperature=0.0)
        outcomes = run(engine, [kept, job(2, prompt(2, 5), 6, regex="[0-9]+", temperature=0.0)])
    finally:
        engine.close()
    assert outcomes[1].end.completion_tokens == 6
    assert outcomes[2].end.error is None


def test_special_tokens_outside_the_logits_are_not_shown_to_the_library(model: Path) -> None:
    change(model, bos_token_id=-1, eos_token_id=[SHAPE.vocab_size, 2], pad_token_id=SHAPE.vocab_size + 7)
    config, _ = prepared(model)
    tokenizer = loading.make_tokenizer(config)
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        assert 0 <= token_id < SHAPE.vocab_size


def test_memory_is_counted_per_mode() -> None:
    sizes = {mode: CacheShape(32, 8, 128, mode).bytes_per_token for mode in ("fp16", "q8", "q6", "q4")}
    assert sizes["fp16"] == 2 * 32 * 8 * 128 * 2
    assert sizes["fp16"] > sizes["q8"] > sizes["q6"] > sizes["q4"] > sizes["fp16"] / 4


def test_a_cache_fills_what_is_left_within_reason() -> None:
    need = MemoryNeed(weight_bytes=5 * GB, scratch_bytes=GB, devices=1, bytes_per_token=131072.0)
    tokens = need.tokens_that_fit(24 * GB, most=10**9)
    assert tokens % 256 == 0
    assert need.total_bytes(tokens) < 24 * GB < need.total_bytes(int(tokens * 1.1))
    assert need.tokens_that_fit(24 * GB, most=8192) == 8192
    assert need.tokens_that_fit(GB, most=8192) == 256


def test_a_shortage_names_what_is_missing_and_what_helps() -> None:
    need = MemoryNeed(weight_bytes=5 * GB, scratch_bytes=GB, devices=1, bytes_per_token=131072.0)
    said = shortage(need, 131072, 8 * GB, "fp16")
    for part in ("5.0 GB of weights", "16.0 GB of cache for 131072 tokens", "8.0 GB are free", "GB short"):
        assert part in said
    assert "lower `cache_tokens`" in said
    assert "quantised `cache_mode`" in said
    assert "quantised `cache_mode`" not in shortage(need, 131072, 8 * GB, "q4")
    assert "taken by another process" in shortage(need, 256, 80 * GB, "fp16")


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("Insufficient VRAM for model and cache"),
        AssertionError("Insufficient space in device allocation"),
    ],
    ids=str,
)
def test_every_word_for_too_little_memory_is_understood_and_is_no_reason_to_die(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_fatal(error)


@pytest.mark.parametrize(
    "sign",
    [
        "an illegal memory access was encountered",
        "device-side assert triggered",
        "the launch timed out and was terminated",
        "unknown error",
    ],
)
def test_a_poisoned_context_is_a_reason_to_die(sign: str) -> None:
    assert is_fatal(RuntimeError(f"CUDA error: {sign}"))
    assert not is_fatal(RuntimeError("shape mismatch"))


@pytest.mark.parametrize("answers", [True, False])
def test_an_error_that_nobody_listed_is_fatal_when_cuda_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    engine = make_engine(tmp_path)
    engine.submit(greedy(1, prompt(20)))
    engine._model.weights.model.fail_at = 1  # type: ignore[union-attr]
    engine._model.weights.model.failure = RuntimeError("CUDA error: something new")  # type: ignore[union-attr]
    engine._model.weights.model.calls.clear()  # type: ignore[union-attr]

    def synchronize(device: int) -> None:
        if not answers:
            raise RuntimeError("CUDA error: something new")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(RuntimeError if answers else FatalEngineError, match="something new"):
        engine.step()


class FakeModel:
    """`ExLlamaV2` as the loader uses it; `room` is how many tokens of cache fit."""

    room = 10**9
    calls: ClassVar[list[tuple[str, Any]]]

    def __init__(self, config: Any) -> None:
        self.config = config
        self.modules = [SimpleNamespace(scratch_space_fixed=lambda: 2**20)]
        self.unloaded = False

    def load_autosplit(self, cache: Any, *, last_id_only: bool, callback: Any) -> None:
        type(self).calls.append(("autosplit", cache.max_seq_len))
        callback(0, 2)
        if cache.max_seq_len > type(self).room:
            raise RuntimeError("Insufficient VRAM for model and cache")
        callback(2, 2)

    def load(self, split: list[float], *, callback: Any) -> None:
        type(self).calls.append(("load", split))
        if split[0] < 1.0:
            raise AssertionError("Insufficient space in device allocation")

    def load_tp(self, split: list[float], **arguments: Any) -> None:
        type(self).calls.append(("load_tp", split))

    def unload(self) -> None:
        type(self).calls.append(("unload", None))


class FakeCache:
    def __init__(self, model: Any, max_seq_len: int, lazy: bool = False, base: Any = None) -> None:
        self.max_seq_len = max_seq_len


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeModel]:
    class Fresh(FakeModel):
        calls: ClassVar[list[tuple[str, Any]]] = []

    monkeypatch.setattr(weights, "ExLlamaV2", Fresh)
    monkeypatch.setattr(weights, "ExLlamaV2Cache_TP", FakeCache)
    monkeypatch.setattr(weights, "CACHE_TYPES", dict.fromkeys(weights.CACHE_TYPES, FakeCache))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (12 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Fresh


def load(model: Path, progress: Any = lambda _: None, **settings: Any) -> weights.Weights:
    return weights.load_weights(EngineConfig(model=model, **settings), model, progress)


def test_the_cache_is_loaded_with_the_weights_and_progress_is_told(model: Path, fake: type[FakeModel]) -> None:
    told: list[LoadProgress] = []
    loaded = load(model, told.append, cache_tokens=8192)
    assert fake.calls == [("autosplit", 8192)]
    assert told == [LoadProgress("weights", 0, 2), LoadProgress("weights", 2, 2)]
    assert loaded.quantised
    assert loaded.paged


def test_a_cache_of_a_fixed_size_that_does_not_fit_is_refused(model: Path, fake: type[FakeModel]) -> None:
    fake.room = 4096
    with pytest.raises(ModelError, match="lower `cache_tokens`"):
        load(model, cache_tokens=8192)
    assert fake.calls == [("autosplit", 8192), ("unload", None)]


def test_a_cache_that_fills_what_is_left_is_tried_smaller(
    model: Path, fake: type[FakeModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GB, 24 * GB))
    fake.room = 0
    with pytest.raises(ModelError):
        load(model, max_batch_size=1024)
    sizes = [size for name, size in fake.calls if name == "autosplit"]
    assert len(set(sizes)) == 3
    assert sizes == sorted(sizes, reverse=True)
    fake.calls.clear()
    fake.room = sizes[1]
    assert load(model, max_batch_size=1024).cache.max_seq_len == sizes[1]


def test_a_split_by_hand_reaches_the_library(model: Path, fake: type[FakeModel]) -> None:
    load(model, cache_tokens=8192, exllamav2={"gpu_split": (4.0, 8.0)})
    assert fake.calls == [("load", [4.0, 8.0])]
    with pytest.raises(ModelError, match="GPU memory"):
        load(model, cache_tokens=8192, exllamav2={"gpu_split": (0.5, 8.0)})


def test_tensor_parallel_is_told_the_memory_of_every_gpu(model: Path, fake: type[FakeModel]) -> None:
    load(model, cache_tokens=8192, exllamav2={"tensor_parallel": True})
    assert fake.calls == [("load_tp", [12.0, 12.0])]


def test_an_exception_from_progress_aborts_the_load(model: Path, fake: type[FakeModel]) -> None:
    def stop(progress: LoadProgress) -> None:
        raise ConfigurationError("enough")

    with pytest.raises(ConfigurationError, match="enough"):
        load(model, stop, cache_tokens=8192)
    assert fake.calls[-1] == ("unload", None)


def test_a_draft_model_of_another_vocabulary_is_refused(model: Path, fake: type[FakeModel], made: Path) -> None:
    load(model, cache_tokens=8192, exllamav2={"draft_model": made})
    assert [name for name, _ in fake.calls] == ["autosplit", "autosplit"]
    change(model, vocab_size=2048)
    with pytest.raises(ModelError, match="share the model's tokenizer"):
        load(model, cache_tokens=8192, exllamav2={"draft_model": made})


def test_a_lora_is_set_once_and_pages_of_the_bare_model_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tmp_path)
    loaded = engine._model
    run(engine, [greedy(0, prompt(600), 3)])
    assert engine.resident_pages()
    adapter = object()
    monkeypatch.setattr(exllamav2.ExLlamaV2Lora, "from_directory", lambda *_, **__: adapter)
    config = EngineConfig(model=tmp_path, exllamav2={"lora": tmp_path})
    loading._load_lora(config, loaded, loaded.weights)  # type: ignore[arg-type]
    assert loaded.generator.current_loras == [adapter]
    assert engine.resident_pages() == frozenset()
    loaded.generator.model.loras.clear()
    run(engine, [greedy(1, prompt(600), 3)])
    assert all(loras == [adapter] for loras in loaded.generator.model.loras)
