"""The ends of a completion that a model directory names, and those of them that no completion can have."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.engines.end_tokens import read_eos_token_ids
from actors.errors import ModelError
from actors.results import FinishReason
from tests.engines.cpu.harness import job, run
from tests.engines.model_files import CONFIG, write_model


def model_with(path: Path, config: Any, generation: Any = None, **more: Any) -> Path:
    write_model(path, CONFIG | {"eos_token_id": config} | more)
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps({"eos_token_id": generation}))
    return path


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (2, None, (2,)),
        (None, None, ()),
        ([9, 11], [7, 9], (7, 9, 11)),
        (2, 100, (2,)),
        ([0, 99, 100, -1], None, (0, 99)),
        ([True, 1, 2.0, "2", None, [3]], None, (1,)),
        (-1, [], ()),
        (True, "two", ()),
    ],
)
def test_only_tokens_of_the_model_end_a_completion(
    tmp_path: Path, config: Any, generation: Any, expected: tuple[int, ...]
) -> None:
    assert read_eos_token_ids(model_with(tmp_path, config, generation), 100) == expected


def test_the_end_tokens_of_a_language_model_inside_another_are_found(tmp_path: Path) -> None:
    assert read_eos_token_ids(model_with(tmp_path, None, text_config={"eos_token_id": 5}), 100) == (5,)


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_eos_token_ids(model_with(tmp_path, [2, 100], -1), 100)
    (record,) = caplog.records
    assert "eos_token_id -1, 100 is ignored" in record.getMessage()
    assert "tokens 0 to 99. Completions end at 2." in record.getMessage()
    caplog.clear()
    read_eos_token_ids(model_with(tmp_path, 2, 3), 100)
    assert not caplog.records


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_generation_config_is_named(tmp_path: Path, content: str) -> None:
    model = model_with(tmp_path, 2)
    (model / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        read_eos_token_ids(model, 100)


def test_ends_outside_the_logits_fail_no_job(tmp_path: Path) -> None:
    for file in builtin_model_path().iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 2048, 128009, -1]}))
    engine = CpuEngine(EngineConfig(engine="cpu", model=tmp_path, cache_tokens=2048))
    assert engine.load(lambda _: None).eos_token_ids == (2,)
    outcomes = run(engine, job(1, "One day", 8, min_new_tokens=8), job(2, "One day", 8, regex="ab"), job(3, "Hi", 3))
    engine.close()
    assert outcomes[1].end.reason is FinishReason.LENGTH
    assert outcomes[2].text == "ab"
    assert outcomes[3].token_ids
