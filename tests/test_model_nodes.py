"""Models lie on the nodes of workers: the head has neither a GPU nor a model, and a copy that differs is named."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.builtin_model import builtin_model_path
from actors.request.prompt import PromptEncoder
from tests.model_nodes import ADDRESSES
from tests.processes import marked, marked_environment

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300.0

pytestmark = [pytest.mark.ray, pytest.mark.timeout(TIMEOUT_S + 30.0)]


def _can_mount() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, Any]]:
    if not _can_mount():
        pytest.skip("a node that sees files of its own needs the right to mount")
    mark = uuid.uuid4().hex
    environment = marked_environment(mark) | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="exl") as root:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tests.model_nodes", root],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        finally:
            for process in marked(mark):
                process.kill()
        assert done.returncode == 0, done.stderr[-4000:]
        yield json.loads(done.stdout.splitlines()[-1])


def test_a_head_without_gpu_and_model_claims_what_the_nodes_need(told: dict[str, Any]) -> None:
    assert told["unquantised"] == ["exllamav2", 1.0]
    assert told["exl2"] == ["exllamav2", 1.0]
    assert told["named"] == ["exllamav2", 1.0]


def test_what_a_node_lacks_is_said_with_its_name(told: dict[str, Any]) -> None:
    assert told["absent"].startswith("ModelError: There is no model directory ")
    assert ADDRESSES[0] in told["absent"]
    assert told["no gpu there"].startswith(f"ModelError: On node {ADDRESSES[0]} (")
    assert "needs an NVIDIA GPU, and none is visible here" in told["no gpu there"]


def test_fronts_on_a_node_without_the_model_get_its_tokenizer_from_a_worker(told: dict[str, Any]) -> None:
    there = told["elsewhere"]
    assert there["script"] == there["replaced"] == {"actor": 8, "script": 8}
    assert there["woken"] == {"actor": 8, "script": 8}, "while there was no worker, its node was asked"
    assert there["replica"] == list(PromptEncoder.load(builtin_model_path()).encode("Once upon a time"))
    assert there["chats"] is True
    assert told["left over"] == []


def test_a_copy_of_the_model_that_differs_is_refused_with_its_node_and_file(told: dict[str, Any]) -> None:
    assert told["different"].startswith("ModelError: The model ")
    assert all(f"node {address} (" in told["different"] for address in ADDRESSES)
    assert "file generation_config.json has another content" in told["different"]
