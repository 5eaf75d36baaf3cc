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


def describe_models(directories: Sequence[Path]) -> bool:
    """Print a table with a row per model directory; a folder of models stands for its children. Returns whether every
    one of them is a model."""
    table = Table()
    for heading in ("model", "architecture", "weights", "size", "engine here"):
        table.add_column(heading, overflow="fold")
    all_good = True
    for label, path in _candidates(directories):
        cells, good = _row(path)
        table.add_row(*(Text(cell) for cell in (label, *cells)))
        all_good = all_good and good
    Console().print(table)
    return all_good


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
