"""Processes by their numbers, told from later ones that have the same, as /proc knows them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping

_PARENT, _STARTED = 1, 19
"""Of the words behind the name in /proc/PID/stat."""


def start_time(pid: int) -> int | None:
    """When a process was started, in the system's ticks since its own start; None: there is no such process."""
    words = _words(pid)
    return None if words is None or words[0] == "Z" else int(words[_STARTED])


def is_same(pid: int, started: int) -> bool:
    """Whether the process that was started then still runs."""
    return start_time(pid) == started


def descendants(pid: int) -> dict[int, int]:
    """The processes below one, each with its start time, those that others have started behind these; none where there
    is no /proc."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and (words := _words(int(name))) is not None:
                children.setdefault(int(words[_PARENT]), []).append(int(name))
    found = list(children.get(pid, ()))
    for one in found:  # which grows meanwhile
        found += children.get(one, ())
    return {one: started for one in found if (started := start_time(one)) is not None}


def kill(processes: Mapping[int, int]) -> None:
    """Kill those that still run, of process ids with their start times, the last one first: so of `descendants` no
    parent can start them anew."""
    for pid, started in reversed(list(processes.items())):
        if is_same(pid, started):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _words(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()  # the name before it may hold anything
    except OSError:
        return None  # it has ended meanwhile
