"""A Ray cluster over machines, started on each as an administrator does, with Ray's token authentication."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from actors.ray_session import PRIVATE_CLUSTER
from tests.multinode.machines import Machine, Network

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN_S = 150.0
COMMAND_WITHIN_S = 180.0
GCS_PORT = 6379
POLL_S = 0.1


class RayNodes:
    """The cluster on a network's machines. The first that joins is its head."""

    def __init__(self, network: Network, environment: Mapping[str, str] = {}) -> None:
        """`environment` is that of every machine."""
        self.network = network
        self._environment = {
            **PRIVATE_CLUSTER,
            "RAY_AUTH_MODE": "token",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        }
        self._token = ""

    @property
    def head(self) -> Machine:
        return self.network.machines["head"]

    def __getitem__(self, name: str) -> Machine:
        return self.network.machines[name]

    def add(self, name: str) -> Machine:
        """A machine on which nothing runs yet; it has the cluster's token as `scp` would bring it."""
        machine = self.network.add(name, self._environment)
        if not self._token:
            self._token = machine.run(["ray", "get-auth-token", "--generate"], timeout_s=STARTS_WITHIN_S).strip()
        else:
            folder = Path(machine.environment["HOME"], ".ray")
            folder.mkdir()
            (folder / "auth_token").write_text(self._token)
        return machine

    def start_head(self, **more: str) -> None:
        """Start Ray on the head, which has no processor for workers, as it has no GPU. `more` is in its environment."""
        command = ["ray", "start", "--head", "--num-cpus", "0", "--resources", '{"front": 1}']
        self.head.run(command, timeout_s=STARTS_WITHIN_S, **more)

    def join(self, name: str, *, cpus: int = 2, fronts: int = 0) -> Machine:
        """Start Ray on a machine, with room for so many fronts."""
        machine = self.network.machines.get(name) or self.add(name)
        command = ["ray", "start", "--address", f"{self.head.address}:{GCS_PORT}", "--num-cpus", str(cpus)]
        machine.run([*command, "--resources", json.dumps({"front": fronts})], timeout_s=STARTS_WITHIN_S)
        return machine

    def exlpool(self, *arguments: str, on: str = "head") -> str:
        """A command of ours; returns its output. It must succeed."""
        return self[on].run(["exlpool", *arguments], timeout_s=COMMAND_WITHIN_S)

    def python(self, code: str, *, on: str) -> str:
        return self[on].run([sys.executable, "-c", code], timeout_s=COMMAND_WITHIN_S)

    def where(self, actor: str) -> list[str]:
        """The machines on which actors of a class run now, one for each."""
        found = []
        for name, machine in self.network.machines.items():
            titles = [title.split(".")[0] for title in _titles(machine)]
            found += [name] * titles.count(f"ray::{actor}")
        return found


def _titles(machine: Machine) -> list[str]:
    titles = []
    try:
        processes = psutil.Process(machine.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for process in processes:
        try:
            titles.append(process.cmdline()[0])
        except (psutil.Error, IndexError):
            continue
    return titles


@dataclass(frozen=True, slots=True)
class Answer:
    """One request of a load, with times on this machine's monotonic clock. `fault`: how it ended otherwise than it
    had to. `gap_s`: the longest time in which its client waited and heard nothing."""

    sent_s: float
    done_s: float
    gap_s: float
    fault: str | None


class Load:
    """Clients on a machine that ask a server again and again; see `tests.multinode.clients`."""

    def __init__(
        self, machine: Machine, url: str, *, clients: int, tokens: int, key: str = "", once: bool = False
    ) -> None:
        """`once`: each client asks one thing only."""
        options = ["--clients", str(clients), "--tokens", str(tokens), "--key", key, *(["--once"] if once else [])]
        self.answers: list[Answer] = []
        self.begun = 0
        """Requests of which the first token has come."""
        self._machine = machine
        self._process = machine.start([sys.executable, "-m", "tests.multinode.clients", url, *options])
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told:
                self.answers.append(Answer(**told))
            else:
                self.begun += 1

    def stop(self, within_s: float = 120.0) -> list[Answer]:
        """Ask nothing more, and return when everything that is under way was answered."""
        try:
            self._end(within_s)
        finally:
            self._machine.kill_process(self._process)
        return self.answers

    def _end(self, within_s: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(within_s)
        self._thread.join(within_s)
        assert self._process.returncode == 0, self._process.stderr and self._process.stderr.read()

    @property
    def faults(self) -> list[str]:
        return [answer.fault for answer in self.answers if answer.fault is not None]


def until(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Wait for a condition; returns after how long it held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)  # a poll, bounded by the deadline above
    return time.monotonic() - started_s
