"""Command lines that start no worker: help, version, and what is wrong with the others, in one sentence."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from actors.builtin_model import builtin_model_path
from tests.cluster.conftest import Exlpool
from tests.engines.model_files import HALF, WORDS, write_model


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("One\nTwo\n")
    return file


@pytest.fixture(autouse=True)
def _no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may come as far as starting one."""
    from actors import Pool

    def start(*_: object, **__: object) -> None:
        raise AssertionError("a pool was started")

    monkeypatch.setattr(Pool, "start", start)


def plain(text: str) -> str:
    """Without colours and the frames of help pages."""
    return re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]", " ", text)


def test_help_lists_the_commands(exlpool: Exlpool) -> None:
    done = exlpool("--help")
    assert done.status == 0
    for command, words in {
        "generate": "Stream one completion",
        "run": "Run a file of prompts",
        "models": "Say what model directories hold",
        "version": "Print the version",
    }.items():
        assert re.search(rf"{command}\s+{words}", plain(done.out))


@pytest.mark.parametrize("command", ["generate", "run"])
def test_help_of_a_command_explains_every_option(
    exlpool: Exlpool, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    done = exlpool(command, "--help")
    assert done.status == 0
    for option in ("model", "workers", "engine", "cache-tokens", "config", "address", "temperature", "seed", "stop"):
        assert re.search(rf"--{option}\s+.*[A-Za-z0]{{3}}", plain(done.out)), option


def test_without_a_command_the_help_is_shown(exlpool: Exlpool) -> None:
    done = exlpool()
    assert "Commands" in done.out + done.err


@pytest.mark.parametrize("word", ["version", "--version"])
def test_version_is_that_of_the_package(exlpool: Exlpool, word: str) -> None:
    done = exlpool(word)
    assert (done.status, done.out.strip()) == (0, importlib.metadata.version("exlpool"))


USAGE: list[tuple[list[str], str]] = [
    (["paint"], "paint"),
    (["generate"], "PROMPT|prompt"),
    (["generate", "x", "--workers", "0"], "'--workers': must be at least 1, not '0'"),
    (["generate", "x", "--workers", "-2"], "'--workers': must be at least 1, not '-2'"),
    (["generate", "x", "--workers", "two"], "'--workers': must be a whole number, not 'two'"),
    (["generate", "x", "--max-new-tokens", "0"], "'--max-new-tokens': must be at least 1, not '0'"),
    (["generate", "x", "--temperature", "warm"], "'--temperature': must be a number, not 'warm'"),
    (["serve", "--port", "0"], "'--port': must be at least 1, not '0'"),
    (["serve", "--port", "70000"], "'--port': must be at most 65535, not '70000'"),
    (["deploy", "x", "--timeout-s", "0"], "'--timeout-s': must be at least 1, not "),
    (["generate", "x", "--colour", "red"], "colour"),
    (["run"], "PROMPTS|prompts"),
]


@pytest.mark.parametrize(("arguments", "words"), USAGE, ids=lambda value: str(value)[:40])
def test_a_wrong_command_line_is_refused(exlpool: Exlpool, arguments: list[str], words: str) -> None:
    done = exlpool(*arguments)
    assert done.status == 2
    assert re.search(words, done.err)
    assert done.out == ""
    assert "Traceback" not in done.err


WRONG: list[tuple[list[str], str]] = [
    (["--engine", "steam"], "engine"),
    (["--cache-tokens", "1000"], "cache_tokens"),
    (["--cpus-per-worker", "-1"], "cpus_per_worker"),
    (["--cache-mode", "q5"], "cache_mode must be one of fp16, q8, q6 or q4, not 'q5'"),
    (["--context-tokens", "1"], "context_tokens"),
    (["--max-batch-size", "0"], "max_batch_size"),
    (["--placement", "far"], "placement"),
    (["--gpu-split", "20,much"], "exllamav2.gpu_split, entry 2 must be a number, not 'much'"),
    (["--draft-model", "no/draft"], "exllamav2.draft_model: 'no/draft' is no directory here"),
    (["--lora", "no/lora"], "exllamav2.lora: 'no/lora' is no directory here"),
    (["--gpus-per-worker", "1.5"], "gpus_per_worker"),
    (["--config", "none.yaml"], "Cannot read none.yaml: No such file"),
    (["--temperature", "nan"], "temperature"),
    (["--temperature", "-1"], "temperature"),
    (["--top-k", "-1"], "top_k"),
    (["--top-p", "1.5"], "top_p"),
    (["--min-p", "inf"], "min_p"),
    (["--repetition-penalty", "0"], "repetition_penalty"),
    (["--seed", "-1"], "seed"),
    (["--stop", ""], "stop"),
]


@pytest.mark.parametrize("command", ["generate", "run"])
@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_told_in_one_line_before_anything_starts(
    exlpool: Exlpool, prompts: Path, command: str, options: list[str], words: str
) -> None:
    done = exlpool(command, prompts if command == "run" else "Hello!", *options)
    assert done.status == 2
    assert re.fullmatch(rf"Error: .*{words}.*\n", done.err)
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["generate", "caf\udce9"], "prompt"),
        (["generate", "x", "--system", "caf\udce9"], "system"),
        (["generate", "x", "--stop", "caf\udce9"], "stop"),
        (["run", "caf\udce9"], "prompts"),
        (["serve", "--model", "caf\udce9"], "model"),
    ],
)
def test_bytes_that_are_no_text_are_told_as_such(exlpool: Exlpool, arguments: list[str], name: str) -> None:
    """Python gives a byte of an argument that is not UTF-8 as half a surrogate pair."""
    assert exlpool(*arguments).err == f"Error: {name}: byte 4, 0xe9, is not UTF-8.\n"


WRONG_SETTINGS: list[tuple[str, str, str]] = [
    ("generate", "workers: many", "pool.yaml: workers must be a whole number, not 'many'."),
    ("generate", "workers: [", "pool.yaml is not valid YAML"),
    ("generate", "when: 2026-99-99", "pool.yaml is not valid YAML"),
    ("generate", "5", "pool.yaml must hold a mapping of settings"),
    ("generate", "models: []", "pool.yaml has `models`, so it is for `exlpool serve`"),
    ("run", "applications: []", "pool.yaml has `applications`, so it is for `exlpool deploy`"),
    ("serve", "applications: []", "pool.yaml has `applications`, so it is for `exlpool deploy`"),
    ("serve", "models: [{engine: steam}]", "pool.yaml: models, entry 1: engine must be one of auto, cpu, "),
    ("serve", "cors_origins: [page.example]", "pool.yaml: cors_origins: 'page.example' is no origin"),
]


@pytest.mark.parametrize(("command", "text", "words"), WRONG_SETTINGS)
def test_a_wrong_file_of_settings_is_told_by_its_name(
    exlpool: Exlpool, tmp_path: Path, prompts: Path, command: str, text: str, words: str
) -> None:
    (tmp_path / "pool.yaml").write_text(text)
    what: dict[str, list[object]] = {"generate": ["Hello"], "run": [prompts], "serve": []}
    done = exlpool(command, *what[command], "--config", tmp_path / "pool.yaml")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert words in done.err
    assert done.err.count("\n") == 1


BAD_FILES: list[tuple[str, bytes | None, str]] = [
    ("none.txt", None, "Cannot read .*none.txt: No such file"),
    ("empty.txt", b"\n  \n", "holds no prompts"),
    ("latin.txt", b"tea\ncaf\xe9\n", "latin.txt:2: byte 4, 0xe9, is not UTF-8"),
    ("a.jsonl", b'{"prompt": "x"}\n{"prompt": "caf\xe9"}\n', "a.jsonl:2: byte 16, 0xe9, is not UTF-8"),
    ("a.jsonl", b'{"messages": "x"}\n', "a.jsonl:1: messages must be a list of messages, .*, not 'x'"),
    ("a.jsonl", b'{"messages": ["x"]}\n', "a.jsonl:1: messages must be a list of messages"),
    ("a.jsonl", b'{"messages": {"role": "user", "content": "x"}}\n', "messages must be a list of messages"),
    ("a.jsonl", b'{"messages": null}\n', "messages must be a list of messages, .*, not nothing"),
    ("a.jsonl", b'{"token_ids": "x"}\n', "a.jsonl:1: token_ids must be a list of token ids, not 'x'"),
    ("a.jsonl", b'{"token_ids": [{"role": "user"}]}\n', "a.jsonl:1: token_ids must be a list of token ids"),
    ("a.jsonl", b'{"prompt": 5}\n', "a.jsonl:1: prompt must be a text, not 5"),
    ("a.jsonl", b'{"prompt": {"text": "x"}}\n', "a.jsonl:1: prompt must be a text"),
    ("a.jsonl", b'{"prompt": ' + b"[" * 100_000 + b"\n", "a.jsonl:1: not JSON"),
    ("a.jsonl", b'{"prompt": [' + b"1" * 5000 + b"]}\n", "a.jsonl:1: not JSON"),
    ("a.txt", b'{"prompt": "x"}\n', "a.txt:1 looks like JSON Lines: say --jsonl, or --text"),
    ("a.jsonl", b'{"prompt": "x"}\n{"prompt": ', "a.jsonl:2: not JSON"),
    ("a.jsonl", b'"x"\n', "a.jsonl:1: an object"),
    ("a.jsonl", b'{"text": "x"}\n', "a.jsonl:1: an object"),
    ("a.jsonl", b'{"prompt": "x", "messages": []}\n', "exactly one of"),
    ("a.jsonl", b'{"prompt": "x", "colour": "red"}\n', "unknown key 'colour'"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES, ids=lambda value: str(value)[:30])
def test_a_bad_file_of_prompts_is_told_before_anything_starts(
    exlpool: Exlpool, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = exlpool("run", tmp_path / name)
    assert done.status == 2
    assert re.fullmatch(rf"Error: .*{words}.*\n", done.err)


NARROW = 40


def test_headings_and_cells_are_whole_on_a_narrow_terminal(exlpool: Exlpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(NARROW))
    told = exlpool("models").out
    for words in ("built-in", "architecture", "LlamaForCausalLM", "weights", "unquantised", "size", "engine here"):
        assert words in told


def test_results_never_overwrite_the_prompts(exlpool: Exlpool, prompts: Path) -> None:
    done = exlpool("run", prompts, prompts)
    assert (done.status, prompts.read_text()) == (2, "One\nTwo\n")
    assert "name another one" in done.err


def test_results_that_cannot_be_written_are_told(exlpool: Exlpool, prompts: Path, tmp_path: Path) -> None:
    done = exlpool("run", prompts, tmp_path / "none" / "out.jsonl")
    assert done.status == 2
    assert re.fullmatch(r"Error: Cannot write .*out.jsonl: No such file or directory.\n", done.err)


def test_models_describes_the_built_in_one(exlpool: Exlpool) -> None:
    done = exlpool("models")
    assert done.status == 0
    assert re.search(r"built-in.*LlamaForCausalLM.*unquantised.*5 MB", done.out)


def test_models_describes_the_children_of_a_folder(
    exlpool: Exlpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_model(tmp_path / "one")
    write_model(tmp_path / "two[bold]", x__q_weight=WORDS, y__weight=HALF)
    done = exlpool("models", tmp_path, builtin_model_path())
    assert done.status == 0
    assert len(re.findall("LlamaForCausalLM", done.out)) == 3
    assert re.search(r"one .*unquantised.* cpu ", done.out)
    assert re.search(r"two\[bold\] .*exl2.*needs an NVIDIA GPU", done.out)


def test_models_says_what_is_wrong_with_a_directory(
    exlpool: Exlpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    done = exlpool("models", tmp_path / "none", builtin_model_path())
    assert done.status == 1
    assert "There is no model directory" in done.out
    assert "LlamaForCausalLM" in done.out
