"""Commands that start pools: what they print, write and return, and that they leave nothing running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.engines.simulated import expected_tokens
from actors.request.prompt import PromptEncoder
from tests.cluster.conftest import Exlpool
from tests.processes import marked, marked_environment

pytestmark = pytest.mark.ray

EXLPOOL = str(Path(sysconfig.get_path("scripts")) / "exlpool")
RUN_S = 100.0
GONE_WITHIN_S = 30.0
"""A process of Ray that has just started looks for its dead cluster for five seconds, after its imports."""


def simulated_text(prompt: Any, tokens: int) -> str:
    """What the simulated engine, which uses the built-in model's tokenizer, makes of a prompt greedily."""
    from actors.builtin_model import builtin_model_path

    token_ids = PromptEncoder.load(builtin_model_path()).encode(prompt)
    return "".join(f" w{token}" for token in expected_tokens(token_ids, tokens))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "pool.yaml"
    file.write_text("name: cli\nengine: simulated\nworkers: 2\nwait_for: all\nsimulated:\n  step_s: 0.001\n")
    return file


# In the cluster of the test session


@pytest.mark.usefixtures("ray_cluster")
def test_generate_continues_a_text(exlpool: Exlpool, settings: Path) -> None:
    done = exlpool("generate", "Hello", "--config", settings, "--temperature", 0, "--max-new-tokens", 5)
    assert (done.status, done.out) == (0, simulated_text("Hello", 5) + "\n")


@pytest.mark.usefixtures("ray_cluster")
def test_generate_answers_a_message_behind_a_system_message(exlpool: Exlpool, settings: Path) -> None:
    options = ["--config", settings, "--temperature", 0, "--max-new-tokens", 5]
    user = {"role": "user", "content": "Hello"}
    done = exlpool("generate", "Hello", "--chat", *options)
    assert done.out == simulated_text([user], 5) + "\n"
    done = exlpool("generate", "Hello", "--system", "Be kind.", *options)
    assert done.out == simulated_text([{"role": "system", "content": "Be kind."}, user], 5) + "\n"


@pytest.mark.usefixtures("ray_cluster")
def test_generate_refuses_what_no_worker_can_take(exlpool: Exlpool, settings: Path) -> None:
    done = exlpool("generate", "Hello", "--config", settings, "--max-new-tokens", 10**6)
    assert done.status == 2
    assert re.search(r"^Error: .* max_new_tokens is 1000000.*$", done.err, re.MULTILINE)
    done = exlpool("generate", "Hello", "--config", settings, "--top-k", 5)
    assert done.status == 2
    assert "simulated engine does not support top_k" in done.err
    done = exlpool("generate", "Hello", "--config", settings, "--gpus-per-worker", 1)
    assert done.status == 2
    assert "The workers need 2 GPUs but the cluster has 0" in done.err


@pytest.mark.usefixtures("ray_cluster")
def test_run_writes_a_line_per_prompt_in_order_and_goes_on_past_bad_ones(
    exlpool: Exlpool, settings: Path, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "One", "id": "first"},
        {"prompt": ""},
        {"messages": [{"role": "user", "content": "Two"}], "id": 2},
        {"token_ids": [5, 10**6]},
        {"token_ids": [5, 6, 7]},
        {"token_ids": [5, True]},
        {"messages": [{"role": "user"}]},
    ]
    file, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    file.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    options = ["--config", settings, "--temperature", 0, "--max-new-tokens", 5]
    done = exlpool("run", file, out, *options)
    assert (done.status, done.out) == (1, "")
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["index"] for record in records] == list(range(7))
    assert [record["id"] for record in records] == ["first", None, "2", None, None, None, None]
    for index, prompt in {0: "One", 2: rows[2]["messages"], 4: [5, 6, 7]}.items():
        assert records[index]["prompt"] == prompt
        assert records[index]["text"] == simulated_text(prompt, 5)
        assert (records[index]["finish_reason"], records[index]["usage"]["completion_tokens"]) == ("length", 5)
        assert records[index]["worker"].startswith("worker-")
    for index in (1, 3, 5, 6):
        assert records[index]["error"]["code"] == "invalid_request"
        assert "text" not in records[index]
    assert "7 requests in" in done.err
    assert "4 failed" in done.err
    assert re.search(r"all\W+3\W+15\W", done.err)


@pytest.mark.usefixtures("ray_cluster")
def test_run_without_a_file_prints_the_texts(exlpool: Exlpool, settings: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("One\n\nTwo\n")
    done = exlpool("run", file, "--chat", "--config", settings, "--temperature", 0, "--max-new-tokens", 3)
    assert done.status == 0
    texts = [simulated_text([{"role": "user", "content": text}], 3).strip() for text in ("One", "Two")]
    assert done.out == f"\n>>> One\n{texts[0]}\n\n>>> Two\n{texts[1]}\n"


# As processes of their own


def test_generate_streams_real_text_and_leaves_nothing(mark: str, eventually: Callable[..., None]) -> None:
    done = subprocess.run(
        [EXLPOOL, "generate", "Once upon a time,", "--temperature", "0", "--max-new-tokens", "40"],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        env=marked_environment(mark),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "there was a" in done.stdout
    assert "Traceback" not in done.stderr
    eventually(lambda: not marked(mark), timeout_s=GONE_WITHIN_S)


def test_an_interrupt_in_mid_run_keeps_what_is_done_and_leaves_nothing(
    mark: str, eventually: Callable[..., None], tmp_path: Path
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out.jsonl"
    prompts.write_text("".join(f"Prompt {number}\n" for number in range(2000)))
    settings = tmp_path / "pool.yaml"
    settings.write_text("engine: simulated\nworkers: 2\nwait_for: all\nmax_batch_size: 2\nsimulated:\n  step_s: 0.02\n")
    command = [EXLPOOL, "run", str(prompts), str(out), "--config", str(settings), "--max-new-tokens", "10"]
    script = subprocess.Popen(
        command, env=marked_environment(mark), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        eventually(lambda: out.exists() and out.read_text().count("\n") >= 5, timeout_s=RUN_S)
        assert len(marked(mark)) > 3
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does: to the whole group
        _, errors = script.communicate(timeout=GONE_WITHIN_S)
        eventually(lambda: not marked(mark), timeout_s=GONE_WITHIN_S)
    finally:
        script.kill()
        script.communicate(timeout=10)
    assert script.returncode == 130, errors
    assert "Interrupted." in errors
    assert "Traceback" not in errors
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert 5 <= len(records) < 2000
    assert [record["index"] for record in records] == list(range(len(records)))
