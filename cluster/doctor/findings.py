"""What was judged of one thing on one machine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` names what was looked at, `told` says what is there, and `cure` in a sentence what to do; empty where
    nothing has to be done."""

    check: str
    level: Level
    told: str
    cure: str = ""


def ok(check: str, told: str) -> Finding:
    return Finding(check, Level.OK, told)


def warning(check: str, told: str, cure: str) -> Finding:
    """It works, worse than it could."""
    return Finding(check, Level.WARNING, told, cure)


def missing(check: str, told: str, cure: str) -> Finding:
    """What is wanted cannot run like this."""
    return Finding(check, Level.MISSING, told, cure)
