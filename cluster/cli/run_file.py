"""`exlpool run`: a file of prompts through a pool."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from actors import ConfigurationError, ExlpoolError, GenerationResult, Pool, PoolConfig, Prompt
from cluster.cli.console import RunProgress, errors, loading

_PROMPT_KEYS = ("prompt", "messages", "token_ids")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the prompts file: its prompt, what to show of it, and the `id` it may carry."""

    prompt: Prompt
    shown: str
    identifier: str | None


def read_rows(path: Path, *, chat: bool) -> Iterator[Row]:
    """The prompts of a file: lines of text, or for `.jsonl` objects with one of prompt, messages and token_ids, and
    optionally id. Empty lines are skipped.

    :raises ConfigurationError: the file cannot be read, or a line is wrong; it names the line.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _row(line.rstrip("\n"), f"{path}:{number}", path.suffix == ".jsonl", chat)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"Cannot read {path}: {reason}.") from None


def _row(line: str, where: str, is_json: bool, chat: bool) -> Row:
    if not is_json:
        return Row(_as_chat(line) if chat else line, line, None)
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{where}: not JSON: {error.msg}.") from None
    if not isinstance(value, dict) or sum(key in value for key in _PROMPT_KEYS) != 1:
        raise ConfigurationError(f"{where}: an object with exactly one of {', '.join(_PROMPT_KEYS)} is wanted.")
    unknown = sorted(set(value) - {*_PROMPT_KEYS, "id"})
    if unknown:
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}.")
    prompt = next(value[key] for key in _PROMPT_KEYS if key in value)
    identifier = None if value.get("id") is None else str(value["id"])
    if isinstance(prompt, str):
        return Row(_as_chat(prompt) if chat else prompt, prompt, identifier)
    return Row(prompt, json.dumps(prompt, ensure_ascii=False), identifier)


def _as_chat(text: str) -> Prompt:
    return [{"role": "user", "content": text}]


def run_file(
    path: Path,
    out: Path | None,
    config: PoolConfig,
    *,
    address: str | None,
    chat: bool,
    sampling: Mapping[str, Any],
) -> int:
    """Generate a completion for every line; returns how many failed. Results are written in the order of the file.

    :raises ConfigurationError: the file or a setting is wrong; found before any worker starts.
    """
    total = sum(1 for _ in read_rows(path, chat=chat))
    if total == 0:
        raise ConfigurationError(f"{path} holds no prompts.")
    with (
        _open_output(out, path) as file,
        loading() as starting,
        Pool.start(config=config, address=address, progress=starting) as pool,
    ):
        starting.done()
        with RunProgress(total) as progress:
            rows = read_rows(path, chat=chat)
            prompts = (row.prompt for row in read_rows(path, chat=chat))
            outcomes = pool.map(prompts, return_errors=True, progress=progress, **sampling)
            for index, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
                _write(file, index, row, outcome)
        errors.print(progress.summary())
    return progress.failed


def _open_output(out: Path | None, prompts: Path) -> Any:
    if out is None:
        return nullcontext()
    try:
        if out.exists() and out.samefile(prompts):
            raise ConfigurationError(f"{out} is the file of prompts: name another one for the results.")
        return out.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot write {out}: {error.strerror}.") from None


def _write(file: TextIO | None, index: int, row: Row, outcome: GenerationResult | ExlpoolError) -> None:
    if file is None:
        text = outcome.text if isinstance(outcome, GenerationResult) else f"[{outcome.code}] {outcome.message}"
        print(f"\n>>> {row.shown}\n{text.strip()}", flush=True)
        return
    record: dict[str, Any] = {"index": index, "id": row.identifier, "prompt": row.prompt}
    if isinstance(outcome, GenerationResult):
        record |= {
            "text": outcome.text,
            "finish_reason": outcome.finish_reason,
            "usage": asdict(outcome.usage),
            "seed": outcome.seed,
            "worker": outcome.worker_id,
        }
    else:
        record["error"] = {"code": outcome.code, "message": outcome.message}
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()
