"""The tables of docs/configuration.md: `python -m tests.cluster.settings_table` writes them anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from actors.wording import schema_of
from cluster.config import ClusterConfig
from cluster.example import choices, shown
from serve_app.config import ModelConfig

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
BEGIN = "<!-- made by `python -m tests.cluster.settings_table` -->\n"
LEFT_OUT = frozenset({"simulated", "detached"})


def page_with_tables(page: str) -> str:
    """The page, with the tables as they should be."""
    written, _, _ = page.partition(BEGIN)
    return written + BEGIN + "\n".join(_tables())


def _tables() -> Iterator[str]:
    yield from _table("The deployment", ClusterConfig)
    yield from _table("An entry of `models`", ModelConfig)


def _table(title: str, schema: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {title}\n"
    yield "| setting | default | |"
    yield "|---|---|---|"
    yield from _rows(schema, "")


def _rows(schema: type[BaseModel], above: str) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        inner = schema_of(field.annotation)
        if name in LEFT_OUT:
            continue
        told = f"{field.description}{choices(field.annotation)}".replace("|", "\\|")
        if inner is None or inner is ModelConfig:
            default = "" if inner else f"`{shown(field.get_default(call_default_factory=True))}`"
            yield f"| `{above}{name}` | {default} | {told} |"
        else:
            yield f"| `{above}{name}` | | {told} |"
            yield from _rows(inner, f"{above}{name}.")


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
