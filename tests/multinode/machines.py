"""Several machines on one: network and process namespaces, joined by a bridge that nothing else can reach.

A machine has an address of its own, its own loopback, all ports free, its own `/tmp/ray`, and sees only its own
processes, so that `--address auto` finds the cluster that this machine is of. All of them share files and processor.

Nothing of it has a name, and nothing can be left: a machine is its first process, which ends when a pipe of ours is
closed, however we end, and takes every other process, the network and the mounts with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SUBNET = "10.231.0"
"""Of every network, since none is joined to another, nor to this machine's own."""
TOOLS = ("unshare", "nsenter", "ip", "mount")
STARTS_WITHIN_S = 10.0
ENDS_WITHIN_S = 10.0
_FIRST_PROCESS = ["env", "--ignore-signal=CHLD", "cat"]
"""Reads our pipe to its end. With that signal ignored the system itself takes away what has ended and nobody awaits."""
_TRY = "ip link add one type bridge && ip link set lo up"


def missing() -> str | None:
    """Why no machines can be made here; None: they can."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"no {', '.join(absent)} here: install iproute2 and util-linux"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "sh", "-c", _TRY],
        capture_output=True,
        text=True,
        timeout=STARTS_WITHIN_S,
        check=False,
    )
    return None if tried.returncode == 0 else f"no namespaces here, they need root: {tried.stderr.strip()}"


@dataclass(slots=True)
class Machine:
    """One that is on. Commands run with this process's environment and `environment` on top of it."""

    address: str
    pid: int
    """Of its first process, as we see it."""
    environment: dict[str, str] = field(default_factory=dict)

    def start(
        self, command: list[str], *, log: Path | None = None, cwd: Path | None = None, more: Mapping[str, str] = {}
    ) -> subprocess.Popen[str]:
        """Run a command beside whatever runs; what it writes goes to `log`, and to pipes without one. `more` is added
        to its environment. Its process is `nsenter`'s, which ends when the command does."""
        with contextlib.ExitStack() as stack:
            out = subprocess.PIPE if log is None else stack.enter_context(log.open("a"))
            return subprocess.Popen(
                [*_inside(self.pid, cwd), *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out if log is not None else subprocess.PIPE,
                text=True,
                env={**_without_ray(os.environ), **self.environment, **more},
            )

    def run(
        self, command: list[str], *, timeout_s: float, cwd: Path | None = None, more: Mapping[str, str] = {}
    ) -> str:
        """Run a command to its end; returns what it wrote to standard output. It must succeed."""
        process = self.start(command, cwd=cwd, more=more)
        try:
            out, told = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_process(process)
            out, told = process.communicate()
            raise AssertionError(f"{command} had no end within {timeout_s:g} s: {out} {told}") from None
        assert process.returncode == 0, f"{command} ended with {process.returncode}: {out} {told}"
        return out

    def kill_process(self, process: subprocess.Popen[str]) -> None:
        """Kill a command that `start` began, with all that it has begun."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait(ENDS_WITHIN_S)

    def processes(self) -> list[psutil.Process]:
        """What runs on it, its first process aside."""
        own = _process_namespace(self.pid)
        others = [process for process in psutil.process_iter() if process.pid != self.pid]
        return [process for process in others if own is not None and _process_namespace(process.pid) == own]

    def kill_processes(self) -> None:
        """kill -9 everything that runs on it; the machine stays, and its address."""
        subprocess.run([*_inside(self.pid), "sh", "-c", "kill -9 -1"], check=True, timeout=ENDS_WITHIN_S)

    def turn_off(self) -> None:
        """End it with everything on it, at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.pid)
            first.send_signal(signal.SIGKILL)
            psutil.wait_procs([first], timeout=ENDS_WITHIN_S)


class Network:
    """`with Network(folder) as network:` machines can be added to it, and are gone with the block. `folder` holds
    their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self.machines: dict[str, Machine] = {}

    def __enter__(self) -> Network:
        self._switch = self._stack.enter_context(_first_process())
        self._hosts = self.folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")
        self._resolver = self.folder / "resolv.conf"
        self._resolver.write_text("nameserver 127.0.0.1\n")  # nobody answers there, and says so at once
        self._in_switch("ip link add switch type bridge forward_delay 0 && ip link set switch up")
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def add(self, name: str, environment: Mapping[str, str] = {}) -> Machine:
        """A new machine, which the others know by its name. Its home directory is empty."""
        number = len(self.machines) + 1
        machine = Machine(f"{SUBNET}.{number}", self._stack.enter_context(_first_process()))
        home, ray_files = self.folder / f"home-{name}", self.folder / f"ray-{name}"
        for folder in (home, ray_files, Path("/tmp/ray")):
            folder.mkdir(exist_ok=True)
        machine.environment = {"HOME": str(home), **environment}
        self._in_switch(
            f"ip link add port{number} type veth peer name eth0 netns {machine.pid} && "
            f"ip link set port{number} master switch && ip link set port{number} up"
        )
        # The route says which address is the machine's own, as a gateway's does elsewhere; there is none.
        ready = (
            f"ip address add {machine.address}/24 dev eth0 && ip link set lo up && ip link set eth0 up && "
            f"ip route add default dev eth0 && mount --bind {ray_files} /tmp/ray && "
            f"mount --bind {self._hosts} /etc/hosts && mount --bind {self._resolver} /etc/resolv.conf"
        )
        with self._hosts.open("a") as hosts:
            hosts.write(f"{machine.address} {name}\n")
        machine.run(["sh", "-ec", ready], timeout_s=STARTS_WITHIN_S)
        self.machines[name] = machine
        return machine

    def _in_switch(self, command: str) -> None:
        inside = ["nsenter", "--target", str(self._switch), "--net", "--"]
        subprocess.run([*inside, "sh", "-ec", command], check=True, timeout=STARTS_WITHIN_S)


def _process_namespace(pid: int) -> str | None:
    """None: there is no such process any more."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _inside(pid: int, cwd: Path | None = None) -> list[str]:
    return ["nsenter", "--target", str(pid), "--net", "--pid", "--mount", f"--wdns={cwd or '/'}", "--"]


def _without_ray(environment: Mapping[str, str]) -> dict[str, str]:
    """A machine knows of no cluster, and Ray's authentication is as it comes."""
    return {name: value for name, value in environment.items() if not name.startswith("RAY_")}


@contextlib.contextmanager
def _first_process() -> Iterator[int]:
    """The process id of the first process in namespaces of its own."""
    outer = subprocess.Popen(
        ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", *_FIRST_PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # it complains of a signal whenever its child is killed
    )
    try:
        yield _child(psutil.Process(outer.pid))
    finally:
        assert outer.stdin is not None
        outer.stdin.close()
        try:
            outer.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            outer.kill()
            outer.wait(ENDS_WITHIN_S)


def _child(outer: psutil.Process) -> int:
    deadline_s = time.monotonic() + STARTS_WITHIN_S
    while True:
        for child in outer.children():
            if child.name() == "cat":
                return child.pid
        assert time.monotonic() < deadline_s, "no namespaces were made"
        time.sleep(0.01)  # a poll, bounded by the deadline above
