"""Command lines that are run one after the other in a process of their own, which is connected to nothing before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.cluster.conftest import Done

RUN_S = 150.0
PROGRAM = """
import contextlib, io, json, sys
from cluster.cli.app import main

told = []
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            told.append([left.code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def run_commands(commands: Sequence[Sequence[object]], environment: Mapping[str, str]) -> list[Done]:
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = run_program(PROGRAM, words, environment=environment)
    return [Done(*one) for one in json.loads(done.splitlines()[-1])]


def run_program(code: str, *arguments: str, environment: Mapping[str, str]) -> str:
    """What a Python program prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
