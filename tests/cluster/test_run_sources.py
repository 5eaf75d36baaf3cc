"""`exlpool run` and `generate`: where prompts come from and results go to, and what is told of them. Without Ray: the
pool is a stand-in."""

from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from actors import ExlpoolError, GenerationResult, InvalidRequest, Pool, Prompt
from actors.results import FinishReason, Timing, Usage
from cluster.cli import sources
from tests.cluster.conftest import Exlpool

JOIN_S = 10.0


class Echo:
    """A pool that answers every prompt with itself, and cannot take "bad"."""

    @classmethod
    def start(cls, **_: Any) -> Self:
        return cls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stream(self, prompt: Prompt, **_: Any) -> Iterator[GenerationResult]:
        yield _result(str(prompt))

    def map(
        self, prompts: Iterable[Prompt], *, progress: Callable[[int, Any], None], **_: Any
    ) -> Iterator[GenerationResult | ExlpoolError]:
        for done, prompt in enumerate(prompts, 1):
            outcome = InvalidRequest("A bad one.") if prompt == "bad" else _result(str(prompt))
            progress(done, outcome)
            yield outcome


def _result(text: str) -> GenerationResult:
    timing = Timing(queue_s=0.0, prefill_s=0.0, first_token_s=0.0, total_s=0.0)
    return GenerationResult(
        request_id="r",
        text=text,
        token_ids=(1,),
        finish_reason=FinishReason.STOP,
        usage=Usage(1, 1),
        timing=timing,
        worker_id="worker-0#1",
    )


@pytest.fixture(autouse=True)
def _echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "start", Echo.start)


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Puts bytes on standard input, through a pipe."""
    opened: list[io.TextIOWrapper] = []

    def put(data: bytes) -> None:
        reads, writes = os.pipe()
        threading.Thread(target=_fill, args=(writes, data), daemon=True).start()
        opened.append(os.fdopen(reads))
        monkeypatch.setattr("sys.stdin", opened[-1])

    yield put
    for file in opened:
        file.close()


def _fill(writes: int, data: bytes) -> None:
    with os.fdopen(writes, "wb") as pipe:
        pipe.write(data)


def texts(out: Path) -> list[str]:
    return [json.loads(line)["text"] for line in out.read_text().splitlines()]


def test_a_pipe_is_read_whole(exlpool: Exlpool, tmp_path: Path) -> None:
    """As `cat prompts | exlpool run /dev/stdin` and `exlpool run <(cat prompts)` do: it can be read only once."""
    reads, writes = os.pipe()
    with os.fdopen(writes, "wb") as pipe:
        pipe.write(b"One\nTwo\n")
    try:
        done = exlpool("run", f"/dev/fd/{reads}", tmp_path / "out.jsonl")
    finally:
        os.close(reads)
    assert (done.status, texts(tmp_path / "out.jsonl")) == (0, ["One", "Two"])


def test_a_named_pipe_is_read_whole(exlpool: Exlpool, tmp_path: Path) -> None:
    fifo = tmp_path / "prompts.jsonl"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_text('{"prompt": "One"}\n'), daemon=True)
    writer.start()
    done = exlpool("run", fifo, tmp_path / "out.jsonl")
    writer.join(JOIN_S)
    assert (done.status, texts(tmp_path / "out.jsonl")) == (0, ["One"])


def test_a_dash_is_standard_input_and_output(exlpool: Exlpool, standard_input: Callable[[bytes], None]) -> None:
    standard_input("\ufeffOne\r\n\nTwo".encode())
    done = exlpool("run", "-", "-")
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["One", "Two"]
    standard_input(b'{"prompt": "One"}\n')
    assert json.loads(exlpool("run", "-", "-", "--jsonl").out)["prompt"] == "One"


def test_json_lines_on_standard_input_are_not_taken_for_text(
    exlpool: Exlpool, standard_input: Callable[[bytes], None]
) -> None:
    standard_input(b'{"prompt": "One"}\n')
    done = exlpool("run", "-", "-")
    assert (done.status, done.out) == (2, "")
    assert "standard input:1 looks like JSON Lines: say --jsonl" in done.err
    standard_input(b'{"prompt": "One"}\n')
    assert exlpool("run", "-", "-", "--text").status == 0


def test_what_can_be_read_only_once_is_kept_within_a_bound(
    exlpool: Exlpool, standard_input: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_KEPT_BYTES", 1000)
    standard_input(b"One\n" * 1000)
    done = exlpool("run", "-")
    assert (done.status, done.out) == (2, "")
    assert "longer than" in done.err
    assert "write them to a file first" in done.err


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "holds no prompts"), (b"One\ncaf\xe9", "standard input:2: byte 4, 0xe9, is not UTF-8")]
)
def test_what_is_wrong_with_standard_input_is_told(
    exlpool: Exlpool, standard_input: Callable[[bytes], None], data: bytes, words: str
) -> None:
    standard_input(data)
    done = exlpool("run", "-")
    assert (done.status, done.out) == (2, "")
    assert words in done.err


def test_a_prompt_comes_from_standard_input(
    exlpool: Exlpool, standard_input: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    standard_input("Once upon\na time, ü\n".encode())
    assert exlpool("generate", "-").out == "Once upon\na time, ü\n"
    standard_input(b"caf\xe9\n")
    assert "standard input: byte 4, 0xe9, is not UTF-8" in exlpool("generate", "-").err
    standard_input(b"\n")
    assert "holds no prompt" in exlpool("generate", "-").err
    monkeypatch.setattr(sources, "MAX_PROMPT_BYTES", 10)
    standard_input(b"x" * 11)
    assert "too long for a prompt" in exlpool("generate", "-").err
    monkeypatch.setattr("sys.stdin", None)
    assert "Standard input is closed" in exlpool("generate", "-").err


@pytest.mark.parametrize("columns", [None, "40", "20"])
def test_the_summary_counts_every_request(
    exlpool: Exlpool, tmp_path: Path, columns: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if columns is not None:
        monkeypatch.setattr("cluster.cli.console.errors.width", int(columns))
    (tmp_path / "prompts.txt").write_text("1\n2\nbad\n3\n4\n5\n")
    done = exlpool("run", tmp_path / "prompts.txt", tmp_path / "out.jsonl")
    assert done.status == 1
    told = " ".join(done.err.split())
    assert "6 requests in" in told
    assert "1 failed" in told
    if columns != "20":
        for heading in ("worker", "done", "tokens", "tokens/s"):
            assert heading in told


def test_half_a_surrogate_pair_does_not_end_a_run(exlpool: Exlpool, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "\\ud800"}\n{"prompt": "Two"}\n')
    done = exlpool("run", tmp_path / "prompts.jsonl", tmp_path / "out.jsonl")
    assert (done.status, texts(tmp_path / "out.jsonl")) == (0, ["\ud800", "Two"])


def test_a_file_that_changes_meanwhile_is_no_traceback(
    exlpool: Exlpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("One\n")

    def start(**_: Any) -> Echo:
        with prompts.open("a") as file:
            file.write("Two\n")
        return Echo()

    monkeypatch.setattr(Pool, "start", start)
    done = exlpool("run", prompts, tmp_path / "out.jsonl")
    assert (done.status, texts(tmp_path / "out.jsonl")) == (0, ["One", "Two"])


def test_a_full_disk_is_told(exlpool: Exlpool, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("One\n")
    done = exlpool("run", tmp_path / "prompts.txt", "/dev/full")
    assert done.status == 2
    assert done.err.splitlines()[-1] == f"Error: Cannot write /dev/full: {os.strerror(errno.ENOSPC)}."
