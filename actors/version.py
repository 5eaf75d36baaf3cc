"""The version of exlpool that runs, installed or not."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NAME = "exlpool"
UNKNOWN = "0+unknown"


def package_version() -> str:
    """That of the installed package; of a checkout that was put on the path, what its pyproject.toml says; else
    `UNKNOWN`. Never fails: a server must start without knowing its version."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return _checkout_version(Path(__file__).resolve().parents[1] / "pyproject.toml")


def _checkout_version(pyproject: Path) -> str:
    try:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        return str(project["version"]) if project["name"] == NAME else UNKNOWN
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN
