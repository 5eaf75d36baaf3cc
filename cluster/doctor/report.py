"""Showing findings: a table for each machine, or all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.doctor.facts import Machine
from cluster.doctor.findings import Finding, Level
from cluster.doctor.judge import all_good

_LEVEL_WIDTH = max(map(len, Level))
_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.MISSING: "bold red"}


@dataclass(frozen=True, slots=True)
class Part:
    """A machine, or the cluster as a whole (`machine` None, as for a node that did not answer)."""

    name: str
    findings: tuple[Finding, ...]
    machine: Machine | None = None


def print_tables(parts: Sequence[Part], console: Console) -> None:
    for part in parts:
        console.print(Text(part.name, style="bold"), soft_wrap=True)
        width = max(len(finding.check) for finding in part.findings)
        for finding in part.findings:
            console.print(_row(finding, width))
            if finding.cure:  # as one line however long, since it may hold a command to copy
                console.print(Text(f"    → {finding.cure}"), soft_wrap=True)
    console.print(_conclusion([finding for part in parts for finding in part.findings]))


def as_json(parts: Sequence[Part]) -> str:
    findings = [finding for part in parts for finding in part.findings]
    told: dict[str, Any] = {"good": all_good(findings), "parts": [asdict(part) for part in parts]}
    return json.dumps(told, indent=2, ensure_ascii=False)


def _row(finding: Finding, width: int) -> Table:
    row = Table.grid(padding=(0, 2, 0, 0))
    row.add_column(min_width=width + 2, no_wrap=True)
    row.add_column(min_width=_LEVEL_WIDTH, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(f"  {finding.check}"), Text(finding.level, style=_STYLES[finding.level]), Text(finding.told))
    return row


def _conclusion(findings: Sequence[Finding]) -> Text:
    missing = sum(finding.level is Level.MISSING for finding in findings)
    warnings = sum(finding.level is Level.WARNING for finding in findings)
    if missing:
        return Text(f"{missing} missing, {warnings} to mind.", style=_STYLES[Level.MISSING])
    return Text("All is there." if not warnings else f"All is there, {warnings} to mind.", style=_STYLES[Level.OK])
