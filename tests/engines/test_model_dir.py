"""What model directories hold is found out without reading weights, and what is wrong with one is said."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.engines.model_dir import ModelDirectory, WeightKind, inspect_model_dir
from actors.errors import ModelError
from tests.engines.model_files import CONFIG, HALF, WORDS, write_model


def write_header(path: Path, header: Any, data_bytes: int = 0) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data_bytes))


def problem(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        inspect_model_dir(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.message


def test_the_built_in_model_is_a_whole_one() -> None:
    size = 2295552 * 2
    expected = ModelDirectory(
        builtin_model_path(), "LlamaForCausalLM", WeightKind.UNQUANTISED, "float16", weight_bytes=size
    )
    assert inspect_model_dir(builtin_model_path()) == expected


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float32, "float32")]
)
def test_the_type_is_that_of_most_weights(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    other = torch.float32 if dtype is not torch.float32 else torch.float16
    write_model(tmp_path, a__weight=torch.zeros(100, dtype=dtype), b__weight=torch.zeros(4, dtype=other))
    assert inspect_model_dir(tmp_path).dtype == name


KINDS: list[tuple[WeightKind, dict[str, Any], dict[str, torch.Tensor]]] = [
    (WeightKind.EXL2, {}, {"x__q_weight": WORDS, "x__q_scale": HALF}),
    (WeightKind.EXL2, {"quantization_config": {"quant_method": "exl2"}}, {"x__weight": HALF}),
    (WeightKind.EXL3, {}, {"x__trellis": WORDS, "x__suh": HALF}),
    (WeightKind.GPTQ, {"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"x__qweight": WORDS, "y": HALF}),
    (WeightKind.UNQUANTISED, {"quantization_config": None}, {"x__weight": HALF}),
]


@pytest.mark.parametrize(("kind", "settings", "tensors"), KINDS)
def test_the_kind_of_weights_shows(
    tmp_path: Path, kind: WeightKind, settings: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> None:
    assert inspect_model_dir(write_model(tmp_path, CONFIG | settings, **tensors)).kind is kind


def test_old_gptq_directories_keep_their_settings_apart(tmp_path: Path) -> None:
    write_model(tmp_path, x__qweight=WORDS, x__scales=HALF)
    assert "'unknown'" in problem(tmp_path)
    settings = tmp_path / "quantize_config.json"
    settings.write_text('{"bits": 4}')
    assert inspect_model_dir(tmp_path).kind is WeightKind.GPTQ
    settings.write_text('{"bits": 8}')
    assert "8-bit GPTQ" in problem(tmp_path)
    settings.write_text("{")
    assert "quantize_config.json is damaged" in problem(tmp_path)


@pytest.mark.parametrize("method", ["awq", "bitsandbytes", "fp8"])
def test_kinds_that_no_engine_reads_are_named(tmp_path: Path, method: str) -> None:
    write_model(tmp_path, CONFIG | {"quantization_config": {"quant_method": method}})
    assert method in problem(tmp_path)


def test_eight_bit_floats_are_no_plain_weights(tmp_path: Path) -> None:
    write_model(tmp_path, x__weight=torch.zeros(8, dtype=torch.float8_e4m3fn), y__weight=HALF)
    assert "'fp8'" in problem(tmp_path)


def test_a_type_is_known_by_its_whole_name(tmp_path: Path) -> None:
    write_model(tmp_path, x__weight=HALF, y__weight=torch.zeros(4, dtype=torch.float64))
    assert inspect_model_dir(tmp_path).kind is WeightKind.UNQUANTISED
    for name in ("F4", "F6_E2M3", "F8_E8M0"):
        header = {"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}
        header["b"] = {"dtype": name, "shape": [8], "data_offsets": [2, 10]}
        write_header(tmp_path / "model.safetensors", header, 10)
        assert "'fp8'" in problem(tmp_path)


def test_a_missing_directory_a_file_and_an_empty_directory(tmp_path: Path) -> None:
    assert "There is no model directory" in problem(tmp_path / "none")
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in problem(file)
    assert "no config.json" in problem(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (b"[]", "JSON object"), (b"", "JSON")]
)
def test_a_damaged_config(tmp_path: Path, content: bytes, words: str) -> None:
    (write_model(tmp_path) / "config.json").write_bytes(content)
    assert words in problem(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], ["A", "B"], "LlamaForCausalLM", [5]])
def test_a_config_names_one_model_class(tmp_path: Path, architectures: Any) -> None:
    assert "architectures" in problem(write_model(tmp_path, {"architectures": architectures}))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_config(tmp_path: Path) -> None:
    (write_model(tmp_path) / "config.json").chmod(0)
    assert "Permission denied" in problem(tmp_path)


def test_a_tokenizer_is_wanted(tmp_path: Path) -> None:
    (write_model(tmp_path) / "tokenizer.json").unlink()
    assert "no tokenizer.json" in problem(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    assert "AutoTokenizer" in problem(tmp_path)


def test_weights_are_wanted(tmp_path: Path) -> None:
    (write_model(tmp_path) / "model.safetensors").unlink()
    assert "holds no *.safetensors" in problem(tmp_path)
    (tmp_path / "model.gguf").touch()
    assert "model.gguf" in problem(tmp_path)


def test_half_a_model(tmp_path: Path) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00003.safetensors")
    assert "lacks 2 of its 3 weight files (model-00002-of-00003.safetensors)" in problem(tmp_path)


def test_an_index_names_files_that_must_be_there(tmp_path: Path) -> None:
    index = write_model(tmp_path) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}))
    assert "other.safetensors" in problem(tmp_path)
    index.write_text(json.dumps({"weight_map": {"b": "of-the-original.safetensors"}}))
    assert inspect_model_dir(tmp_path).kind is WeightKind.UNQUANTISED, "an index without a single file is stale"
    index.write_text("[]")
    assert "index.json is damaged" in problem(tmp_path)


def test_weights_that_are_no_weights(tmp_path: Path) -> None:
    file = write_model(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    assert "truncated" in problem(tmp_path)
    file.write_bytes(whole[:20])
    assert "not a whole safetensors file" in problem(tmp_path)
    file.write_bytes(b"")
    assert "not a whole safetensors file" in problem(tmp_path)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in problem(tmp_path)
    headers: list[Any] = [[], {"a": {}}, {"a": {"dtype": "F16", "data_offsets": 5}}, {"a": None}]
    for header in headers:
        write_header(file, header)
        assert "damaged safetensors header" in problem(tmp_path)
    write_header(file, {"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, 8)
    assert "no weights of type F16" in problem(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", json.dumps({"architectures": ["NoSuchModel"], "model_type": "nothing"})),
        ("config.json", json.dumps(CONFIG | {"hidden_size": "wide"})),
        ("config.json", json.dumps(CONFIG | {"num_attention_heads": 0})),
        ("config.json", json.dumps(CONFIG | {"num_hidden_layers": 4, "hidden_size": 256})),
        ("generation_config.json", "[]"),
        ("generation_config.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "not JSON"),
    ],
)
def test_what_the_headers_do_not_show_fails_the_load_as_a_typed_error(tmp_path: Path, name: str, content: str) -> None:
    for file in builtin_model_path().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_text(content)
    engine = CpuEngine(EngineConfig(engine="cpu", model=tmp_path))
    with pytest.raises(ModelError) as caught:
        engine.load(lambda _: None)
    assert "\n" not in caught.value.message
    engine.close()
