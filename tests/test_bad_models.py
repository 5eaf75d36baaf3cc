"""A model that cannot be used is refused by one typed error when a pool starts, and running pools do not notice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from actors import ModelError, Pool
from actors.builtin_model import builtin_model_path
from actors.engines.simulated import expected_tokens
from tests.engines.model_files import HALF, WORDS, write_model

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

PROMPT = (10, 11, 12)


@pytest.fixture(scope="module")
def neighbour(ray_cluster: None) -> Iterator[Pool]:
    with Pool.start(name="neighbour", engine="simulated", simulated={"step_s": 0.005}) as pool:
        yield pool


def half_a_model(path: Path) -> Path:
    shutil.copytree(builtin_model_path(), path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return path


def unknown_architecture(path: Path) -> Path:
    shutil.copytree(builtin_model_path(), path)
    (path / "config.json").write_text(json.dumps({"architectures": ["NoSuchModel"], "model_type": "no_such_model"}))
    return path


def exl2_model(path: Path) -> Path:
    return write_model(path, x__q_weight=WORDS, y__weight=HALF)


def nothing(path: Path) -> Path:
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (nothing, "There is no model directory"),
        (half_a_model, "truncated"),
        (exl2_model, "EXL2 weights, which the CPU engine cannot read"),
        (unknown_architecture, "transformers cannot read"),
    ],
)
def test_a_pool_with_a_bad_model_is_refused(
    neighbour: Pool, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    running = neighbour.generate.remote(PROMPT, max_new_tokens=40, temperature=0.0)
    with pytest.raises(ModelError, match=words):
        Pool.start(make(tmp_path / "model"), name="bad", engine="cpu")
    assert ray.get(running, timeout=60).token_ids == expected_tokens(PROMPT, 40)
