from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cluster.cli.app import main


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    status: int
    out: str
    err: str


Exlpool = Callable[..., Done]


@pytest.fixture
def exlpool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Exlpool:
    """Runs a command line in this process, through the entrance that the installed script has."""

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["exlpool", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, captured.out, captured.err)

    return call
