"""A Ray cluster over machines, started on each as an administrator does, with Ray's token authentication."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from actors.ray_session import PRIVATE_CLUSTER
from tests.multinode.machines import Machine, Network

ROOT = Path(__file__).resolve().parents[2]
STARTS_WITHIN_S = 150.0
COMMAND_WITHIN_S = 180.0
GCS_PORT, REDIS_PORT = 6379, 6379
REDIS_PASSWORD = "not-a-secret"


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
        self._redis: dict[str, str] = {}

    @property
    def head(self) -> Machine:
        return self["head"]

    def __getitem__(self, name: str) -> Machine:
        return self.network[name]

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

    def start_redis(self) -> subprocess.Popen[str]:
        """On a machine of its own, for the head's state; before the head starts."""
        machine = self.network.add("store", {"PATH": os.environ["PATH"]})
        options = ["--bind", machine.address, "--requirepass", REDIS_PASSWORD, "--save", ""]
        self._redis = {
            "RAY_REDIS_ADDRESS": f"{machine.address}:{REDIS_PORT}",
            "RAY_external_storage_namespace": "exlpool",
        }
        return machine.start(["redis-server", *options], log=self.network.folder / "redis.log")

    def start_head(self) -> None:
        """Start Ray on the head, which has no processor for workers, as it has no GPU."""
        command = ["ray", "start", "--head", "--num-cpus", "0"]
        if self._redis:
            command += ["--redis-password", REDIS_PASSWORD]
        self.head.run(command, timeout_s=STARTS_WITHIN_S, more=self._redis)

    def join(self, name: str, *, cpus: int = 3) -> Machine:
        """Start Ray on a machine."""
        machine = self.network.machines.get(name) or self.add(name)
        command = ["ray", "start", "--address", f"{self.head.address}:{GCS_PORT}", "--num-cpus", str(cpus)]
        machine.run(command, timeout_s=STARTS_WITHIN_S)
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
    for process in machine.processes():
        try:
            titles.append(process.cmdline()[0])
        except (psutil.Error, IndexError):
            continue
    return titles
