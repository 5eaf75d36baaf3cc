"""Copies of a model are told apart by everything that is read whole, and by the ends and headers of the weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from actors.config import EngineConfig, Exllamav2Options
from actors.model_files.fingerprint import SAMPLE_BYTES, Fingerprint, ModelCopy, fingerprint_of
from tests.engines.model_files import write_model

WEIGHTS = "model.safetensors"
LARGE = {"a": torch.zeros(SAMPLE_BYTES, dtype=torch.float32)}
"""More than is looked at."""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    model = write_model(tmp_path / "first")
    save_file(LARGE, model / WEIGHTS)
    (model / "generation_config.json").write_text("{}")
    return model


@pytest.fixture
def second(first: Path) -> Path:
    return Path(shutil.copytree(first, first.parent / "second"))


def seen(model: Path) -> Fingerprint:
    return fingerprint_of(EngineConfig(model=model, engine="cpu"))


def overwritten(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_copies_are_the_same_wherever_they_lie_and_whatever_else_lies_there(first: Path, second: Path) -> None:
    (second / "README.md").write_text("where it came from")
    assert seen(first) == seen(second)
    assert seen(first).difference(seen(second)) is None


@pytest.mark.parametrize(
    ("change", "name", "what"),
    [
        (lambda model: (model / "config.json").write_text("{}"), "config.json", "has another content"),
        (lambda model: (model / "generation_config.json").unlink(), "generation_config.json", "is missing"),
        (lambda model: (model / "chat_template.jinja").write_text("x"), "chat_template.jinja", "is only there"),
        (lambda model: overwritten(model / WEIGHTS, -1), WEIGHTS, "has another content"),
        (lambda model: overwritten(model / WEIGHTS, 200), WEIGHTS, "has another content"),
        (lambda model: save_file({"b": LARGE["a"]}, model / WEIGHTS), WEIGHTS, "has another content"),
        (lambda model: save_file({"a": LARGE["a"][1:]}, model / WEIGHTS), WEIGHTS, "has another content"),
    ],
)
def test_the_file_that_differs_is_named(
    first: Path, second: Path, change: Callable[[Path], object], name: str, what: str
) -> None:
    change(second)
    assert seen(second).difference(seen(first)) == (name, what)


def test_the_middle_of_the_weights_is_not_read(first: Path, second: Path) -> None:
    overwritten(second / WEIGHTS, (second / WEIGHTS).stat().st_size // 2)
    assert seen(first) == seen(second)


def test_what_is_no_safetensors_file_has_a_fingerprint_too(first: Path, second: Path) -> None:
    for model in (first, second):
        (model / WEIGHTS).write_bytes(b"\xff" * 20)
    assert seen(first) == seen(second)
    (second / WEIGHTS).write_bytes(b"")
    assert seen(second).difference(seen(first)) == (WEIGHTS, "has another content")


def test_a_draft_model_and_a_lora_count_where_they_are_used(first: Path, second: Path) -> None:
    options = Exllamav2Options(draft_model=second, lora=second)
    both = EngineConfig(model=first, engine="exllamav2", exllamav2=options)
    before = fingerprint_of(both)
    (second / "config.json").write_text("{}")
    difference = fingerprint_of(both).difference(before)
    assert difference == ("draft_model/config.json", "has another content")
    assert fingerprint_of(both.model_copy(update={"engine": "cpu"})) == seen(first)


def test_an_objection_names_both_nodes_and_the_file(first: Path, second: Path) -> None:
    (second / "tokenizer.json").write_text("{} ")
    one = ModelCopy(path="/models/m", node="10.0.0.1 (a)", fingerprint=seen(first))
    other = ModelCopy(path="/models/m", node="10.0.0.2 (b)", fingerprint=seen(second))
    assert one.objection(one) is None
    assert other.objection(one) == (
        "The model /models/m on node 10.0.0.2 (b) differs from that on node 10.0.0.1 (a): file tokenizer.json has "
        "another content. Put the same files on both."
    )
