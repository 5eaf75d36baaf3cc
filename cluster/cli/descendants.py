"""The processes below one, and their end."""

from __future__ import annotations

import contextlib
import os
import signal


def kill_descendants(pid: int) -> None:
    """Kill every process below `pid`, those that others have started first: a parent cannot start them anew then.

    Where there is no /proc this does nothing: Ray's processes then notice for themselves that they are alone.
    """
    for found in reversed(_below(pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(found, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """The descendants of a process, level by level."""
    children: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and (parent := _parent(name)) is not None:
                children.setdefault(parent, []).append(int(name))
    found = list(children.get(pid, ()))
    for one in found:  # which grows meanwhile
        found += children.get(one, ())
    return found


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])  # the name before it may hold anything
    except (OSError, ValueError, IndexError):
        return None  # it has ended meanwhile
