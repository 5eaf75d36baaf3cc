"""`exlpool models`: what model directories hold, and which engine would run them here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors import ModelError, pool_config
from actors.builtin_model import builtin_model_path
from actors.engines.model_dir import inspect_model_dir
from actors.engines.registry import resolve_engine_name

_ANY_WIDTH = 10_000
_HEADINGS = ("model", "architecture", "weights", "size", "engine here")


def describe_models(directories: Sequence[Path]) -> bool:
    """Print a table with a row per model directory; a folder of models stands for its children. Returns whether every
    one of them is a model."""
    console = Console()
    rows = [(label, *_row(path)) for label, path in _candidates(directories)]
    table = _table([(label, *cells) for label, cells, _ in rows])
    needed = console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).minimum
    if needed <= console.width:
        console.print(table)
    else:  # words would be broken in pieces
        for label, cells, _ in rows:
            _print_one(console, label, cells)
    return all(good for _, _, good in rows)


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table()
    for heading in _HEADINGS:
        table.add_column(Text(heading, no_wrap=True))
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _print_one(console: Console, label: str, cells: Sequence[str]) -> None:
    """A model with a line for each of its columns, as wide as they come."""
    console.print(Text(label, style="bold"), soft_wrap=True)
    for heading, cell in zip(_HEADINGS[1:], cells, strict=True):
        console.print(Text(f"  {heading}: {cell}"), soft_wrap=True)


def _candidates(directories: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    if not directories:
        yield "built-in", builtin_model_path()
    for directory in directories:
        children = sorted(path.parent for path in directory.glob("*/config.json"))
        if children and not (directory / "config.json").exists():
            yield from ((str(child), child) for child in children)
        else:
            yield str(directory), directory


def _row(path: Path) -> tuple[tuple[str, str, str, str], bool]:
    """Architecture, weights, size and engine, and whether it is a model at all."""
    try:
        model = inspect_model_dir(path)
    except ModelError as error:
        return ("-", "-", "-", error.message), False
    try:
        engine = resolve_engine_name(pool_config(model=path))
    except ModelError as error:
        engine = error.message
    return (model.architecture, model.kind, f"{model.weight_bytes / 1e6:,.0f} MB", engine), True
