"""`exlpool run`: a file of prompts through a pool."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors import ConfigurationError, Pool, Prompt
from actors.script.starting import ProgressCallback
from cluster.cli.console import RunProgress, errors, loading
from cluster.cli.results import opened_results
from cluster.cli.rows import Row, read_rows
from cluster.cli.sources import opened_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How lines are read. `jsonl` None: as the file's name says."""

    jsonl: bool | None = None
    chat: bool = False


def run_file(
    prompts: Path,
    out: Path | None,
    opened_pool: Callable[[ProgressCallback], AbstractContextManager[Pool]],
    *,
    form: Format,
    sampling: Mapping[str, Any],
) -> int:
    """Generate a completion for every line; returns how many failed. Results are written in the order of the file.

    :raises ConfigurationError: the file or a setting is wrong; found before any worker starts.
    """
    with opened_source(prompts) as (file, name):

        def rows() -> Iterator[Row]:
            return read_rows(file, name, jsonl=form.jsonl, chat=form.chat)

        total = sum(1 for _ in rows())
        if total == 0:
            raise ConfigurationError(f"{name} holds no prompts.")
        with (
            opened_results(out, prompts) as results,
            loading() as starting,
            opened_pool(starting) as pool,
        ):
            starting.done()
            under_way: deque[Row] = deque()  # as many as `map` has under way
            with RunProgress(total) as progress:
                noted = _noted(rows(), under_way)
                for outcome in pool.map(noted, return_errors=True, progress=progress, **sampling):
                    results.write(under_way.popleft(), outcome)
            errors.print(progress.summary())
    return progress.failed


def _noted(rows: Iterator[Row], under_way: deque[Row]) -> Iterator[Prompt]:
    """The prompts of rows, which are kept until their outcomes come, in the same order."""
    for row in rows:
        under_way.append(row)
        yield row.prompt
