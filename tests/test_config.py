"""What a user configures: the same words in Python and YAML, every fault in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from actors.config import load_config, pool_config
from actors.errors import ConfigurationError

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "colour"),
    ({"workers": 0}, "workers"),
    ({"workers": 1.5}, "workers"),
    ({"workers": "many"}, "workers"),
    ({"engine": "gpu"}, "engine"),
    ({"cache_tokens": 1000}, "cache_tokens"),
    ({"cache_tokens": 0}, "cache_tokens"),
    ({"cache_mode": "q3"}, "cache_mode"),
    ({"chunk_tokens": 100}, "chunk_tokens"),
    ({"context_tokens": 1}, "context_tokens"),
    ({"max_batch_size": 0}, "max_batch_size"),
    ({"cpus_per_worker": -1}, "cpus_per_worker"),
    ({"cpus_per_worker": float("nan")}, "cpus_per_worker"),
    ({"gpus_per_worker": 1.5}, "gpus_per_worker"),
    ({"name": "two words"}, "name"),
    ({"name": ""}, "name"),
    ({"policy": "random"}, "policy"),
    ({"max_wait_s": 0}, "max_wait_s"),
    ({"stall_timeout_s": float("nan")}, "stall_timeout_s"),
    ({"model": 5}, "model"),
    ({"simulated": {"step_s": -1}}, r"simulated\.step_s"),
    ({"simulated": {"speed": 1}}, r"simulated\.speed"),
    ({"exllamav2": {"max_input_tokens": 100}}, r"exllamav2\.max_input_tokens"),
    ({"exllamav2": None}, "exllamav2"),
]


@pytest.mark.parametrize(("values", "named"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_setting_is_named_in_one_sentence(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        pool_config(**values)
    assert "\n" not in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.param is not None


def test_defaults_are_one_worker_on_the_built_in_model() -> None:
    config = pool_config()
    assert (config.workers, config.model, config.engine, config.detached) == (1, None, "auto", False)


def test_a_model_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    (tmp_path / "a" / "model").mkdir(parents=True)
    assert pool_config(model="a/model").model == tmp_path / "a/model"
    assert pool_config(model="~/model").model == Path("/home/somebody/model")


@pytest.mark.parametrize("gpus", [0, 0.25, 1, 4])
def test_gpus_are_a_fraction_of_one_or_whole(gpus: float) -> None:
    assert pool_config(gpus_per_worker=gpus).gpus_per_worker == gpus


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        pool_config().workers = 2  # type: ignore[misc]


def test_every_setting_survives_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(
        "name: stories\nmodel: /models/one\nworkers: 3\ncache_tokens: 65536\ngpus_per_worker: 0.5\n"
        "detached: true\nsimulated:\n  step_s: 0.5\n"
    )
    assert load_config(file) == pool_config(
        name="stories",
        model="/models/one",
        workers=3,
        cache_tokens=65536,
        gpus_per_worker=0.5,
        detached=True,
        simulated={"step_s": 0.5},
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"workers: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"", "mapping"),
        (b"- workers", "mapping"),
        (b"workers: none", "workers"),
        (b"1: 2", ": 1 is no setting"),
    ],
)
def test_a_bad_file_is_told_in_one_error(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "pool.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_config(file)
    assert "\n" not in caught.value.message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"Cannot read {tmp_path / 'none.yaml'}: No such file")):
        load_config(tmp_path / "none.yaml")
