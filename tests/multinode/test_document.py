"""docs/cluster.md is run as it stands: on two machines with empty home directories, in the order of its blocks.

Every block is a shell of its own, so that nothing is left of an `export` of another. There is no ssh between these
machines: a stand-in for `scp` copies between their home directories.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.multinode.machines import Machine, Network
from tests.multinode.programs import until
from tests.multinode.ray_nodes import ROOT

DOCUMENT = ROOT / "docs" / "cluster.md"
BLOCK = re.compile(r"<!-- (on|file) (\S+?)(, in a terminal of its own)? -->\n```(\w+)\n(.*?)```", re.DOTALL)
ENDS_WITHIN_S = 240.0
INTERRUPTED = 130
SCP = """#!/bin/sh
# scp MACHINE:PATH TARGET
exec cp "$HOMES-${1%%:*}/${1#*:}" "$2"
"""


@dataclass(frozen=True)
class Block:
    """What a reader types on a machine, or writes to a file (`machine` is its name then)."""

    machine: str
    language: str
    text: str
    is_file: bool
    stays: bool
    """It runs until it is interrupted."""


def blocks() -> list[Block]:
    found = BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))
    return [Block(name, language, text, kind == "file", bool(stays)) for kind, name, stays, language, text in found]


class Reader:
    """Does what the document says."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        (folder / "bin" / "scp").write_text(SCP)
        (folder / "bin" / "scp").chmod(0o755)
        self._work = folder / "checkout"
        shutil.copytree(ROOT / "cluster" / "examples", self._work / "cluster" / "examples")
        environment = {
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOMES": str(network.folder / "home"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.machines = {name: network.add(name, environment) for name in ("first", "second")}
        self._staying: list[tuple[Machine, subprocess.Popen[str]]] = []

    def follow(self, block: Block) -> str:
        """Returns what it wrote. What stays is up on return, and is interrupted after the block that follows."""
        if block.is_file:
            (self._work / block.machine).write_text(block.text)
            return ""
        machine = self.machines[block.machine]
        if block.stays:
            process = machine.start(self._command(block), cwd=self._work)
            self._staying.append((machine, process))
            until(lambda: is_ready(machine) or process.poll() is not None, ENDS_WITHIN_S, block.text)
            assert process.poll() is None, process.communicate()
            return ""
        written = machine.run(self._command(block), timeout_s=ENDS_WITHIN_S, cwd=self._work)
        for one, process in self._staying:
            interrupt(one, process)
        self._staying.clear()
        return written

    def _command(self, block: Block) -> list[str]:
        if block.language != "python":
            return ["bash", "-ec", block.text]
        script = self._folder / "script.py"
        script.write_text(block.text)
        return ["python", str(script)]


def is_ready(machine: Machine) -> bool:
    asked = machine.start(["curl", "--silent", "--fail", "--max-time", "5", "http://127.0.0.1:8000/ready"])
    asked.communicate(timeout=ENDS_WITHIN_S)
    return asked.returncode == 0


def runs_nothing(machine: Machine) -> bool:
    return not machine.processes()


def interrupt(machine: Machine, process: subprocess.Popen[str]) -> None:
    """Ctrl-C."""
    started = {child.pid for child in psutil.Process(process.pid).children()}
    for one in machine.processes():
        if one.pid in started:
            one.send_signal(signal.SIGINT)
    process.communicate(timeout=ENDS_WITHIN_S)
    assert process.returncode == INTERRUPTED


@pytest.fixture
def reader(network: Network, folder: Path) -> Reader:
    return Reader(network, folder)


def test_every_block_says_where_it_is_run() -> None:
    assert len(blocks()) == DOCUMENT.read_text(encoding="utf-8").count("```") // 2


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_newcomer_goes_from_one_machine_to_two(reader: Reader) -> None:
    written = []
    for block in blocks():
        began_s = time.monotonic()
        written.append((block, reader.follow(block)))
        print(f"{time.monotonic() - began_s:5.1f} s  {block.machine}: {block.text.splitlines()[0]}")
    answers = [json.loads(line) for _, text in written for line in text.splitlines() if line.startswith('{"id"')]
    assert [answer["model"] for answer in answers] == ["builtin", "stories"]
    assert all(answer["choices"][0]["text"] for answer in answers)
    (status,) = (text for block, text in written if "exlpool status" in block.text)
    for machine in reader.machines.values():
        assert f"node {machine.address}" in status, "there are workers on both machines"
    assert all(text.strip() for block, text in written if block.language == "python")
    for name, machine in reader.machines.items():
        until(partial(runs_nothing, machine), ENDS_WITHIN_S, f"{name} has nothing that runs any more")
