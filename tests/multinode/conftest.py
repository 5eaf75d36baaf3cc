"""Networks of machines, where this one can make some; in CI it must."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multinode.machines import Network, missing


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    require_tools(missing())
    with Network(tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For files that all machines see."""
    return tmp_path_factory.mktemp("shared")


def require_tools(why_not: str | None) -> None:
    """Skip where this machine has not what the tests need; fail in CI, which has to have it (`.ci/run`)."""
    if why_not is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why_not)
