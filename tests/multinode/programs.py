"""Programs of these tests that run on a machine and tell what they see, and what is made of it."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.multinode.machines import Machine

ENDS_WITHIN_S = 150.0
POLL_S = 0.1


class Program:
    """A module of ours that runs on a machine, writes lines of JSON, and ends some time after its standard input."""

    def __init__(self, machine: Machine, module: str, *arguments: str) -> None:
        self.told: list[dict[str, Any]] = []
        self._machine = machine
        self._process = machine.start([sys.executable, "-m", f"tests.multinode.{module}", *arguments])
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        self._errors = ""
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # else Ray itself says something to whoever is connected
                self.told.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors = self._process.stderr.read()

    def stop(self) -> None:
        """Returns when it has ended, as it must."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(ENDS_WITHIN_S)
        finally:
            self.kill()
        for thread in self._threads:
            thread.join(ENDS_WITHIN_S)
        assert self._process.returncode == 0, self._errors

    def kill(self) -> None:
        self._machine.kill_process(self._process)


@dataclass(frozen=True, slots=True)
class Answer:
    """One request of a load, with times on this machine's monotonic clock. `gap_s` is the longest time in which its
    client waited and heard nothing, from `gap_from_s` on; `fault` says how it ended otherwise than it had to."""

    sent_s: float
    done_s: float
    gap_s: float
    gap_from_s: float
    fault: str | None


class Load(Program):
    """Clients that ask a server again and again; see `tests.multinode.clients`."""

    def __init__(
        self, machine: Machine, url: str, *, clients: int, tokens: int, key: str = "", once: bool = False
    ) -> None:
        """`once`: each client asks one thing only."""
        options = ["--clients", str(clients), "--tokens", str(tokens), "--key", key]
        super().__init__(machine, "clients", url, *options, *(["--once"] if once else []))

    @property
    def begun(self) -> int:
        """Requests of which the first token has come."""
        return sum(not told for told in list(self.told))

    @property
    def answers(self) -> list[Answer]:
        return [Answer(**told) for told in list(self.told) if told]

    @property
    def faults(self) -> list[str]:
        return [answer.fault for answer in self.answers if answer.fault is not None]

    def all(self) -> list[Answer]:
        """Ask nothing more, and return when everything that is under way was answered."""
        self.stop()
        return self.answers


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker: the machine's address, what it is in one word (see `WorkerState.state`), tokens generated so far."""

    address: str
    state: str
    tokens: int


class Watch(Program):
    """What a pool says of its workers, again and again; see `tests.multinode.watching`."""

    def __init__(self, machine: Machine, pool: str) -> None:
        super().__init__(machine, "watching", pool)

    @property
    def workers(self) -> dict[str, Seen]:
        """By slot name, as they were last heard of."""
        return {name: Seen(*seen) for name, seen in self.told[-1].items()} if self.told else {}

    def up(self) -> list[str]:
        """The addresses of the workers that can generate, one for each."""
        return sorted(worker.address for worker in self.workers.values() if worker.state == "up")


def until(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Wait for a condition; returns after how long it held."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)  # a poll, bounded by the deadline above
    return time.monotonic() - started_s
