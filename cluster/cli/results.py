"""Where results go: JSON Lines in a file or on standard output, or texts for a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from actors import ConfigurationError, ExlpoolError, GenerationResult
from cluster.cli.rows import Row

STANDARD_OUTPUT = Path("-")
Outcome = GenerationResult | ExlpoolError


class Results:
    """Takes the outcome of every row, in their order. What was taken is written, whatever comes next."""

    def __init__(self, file: TextIO | None, name: str) -> None:
        """`file` None: texts to standard output."""
        self._file = file
        self._name = name
        self._count = 0

    def write(self, row: Row, outcome: Outcome) -> None:
        """:raises ConfigurationError: it cannot be written, such as where the disk is full."""
        try:
            if self._file is None:
                text = outcome.text if isinstance(outcome, GenerationResult) else f"[{outcome.code}] {outcome.message}"
                print(f"\n>>> {row.shown}\n{text.strip()}", flush=True)
            else:
                self._file.write(_line(_record(self._count, row, outcome)))
                self._file.flush()
        except BrokenPipeError:
            raise  # nobody reads it any more, which is no fault
        except OSError as error:
            raise ConfigurationError(f"Cannot write {self._name}: {error.strerror}.") from None
        self._count += 1


@contextmanager
def opened_results(out: Path | None, prompts: Path) -> Iterator[Results]:
    """:raises ConfigurationError: the file cannot be written, or is that of the prompts."""
    if out is None or out == STANDARD_OUTPUT:
        yield Results(None if out is None else sys.stdout, "standard output")
        return
    try:
        if out.exists() and prompts.exists() and out.samefile(prompts):
            raise ConfigurationError(f"{out} is the file of prompts: name another one for the results.")
        file = out.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot write {out}: {error.strerror}.") from None
    try:
        yield Results(file, str(out))
    finally:
        _close(file)


def _close(file: TextIO) -> None:
    """What a full disk has left in the buffer cannot be written now either, and that was told."""
    try:
        file.close()
    except OSError:
        return


def _record(index: int, row: Row, outcome: Outcome) -> dict[str, Any]:
    record: dict[str, Any] = {"index": index, "id": row.identifier, "prompt": row.prompt}
    if isinstance(outcome, GenerationResult):
        return record | {
            "text": outcome.text,
            "finish_reason": outcome.finish_reason,
            "usage": asdict(outcome.usage),
            "seed": outcome.seed,
            "worker": outcome.worker_id,
        }
    return record | {"error": {"code": outcome.code, "message": outcome.message}}


def _line(record: dict[str, Any]) -> str:
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can hold and no encoding can
        line = json.dumps(record)
    return line + "\n"
