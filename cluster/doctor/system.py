"""What a machine gives to Ray's processes: memory, limits, sockets, a place for files."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

from actors.errors import ConfigurationError
from actors.ray_checks import require_temp_dir
from cluster.doctor.facts import System

CONNECT_WITHIN_S = 5.0
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def read_system(variables: tuple[str, ...]) -> System:
    return System(
        memory_bytes=_memory_bytes(),
        shm_bytes=_shm_bytes(),
        open_files=_open_files(),
        loopback_error=_loopback_error(),
        temp_dir_error=_temp_dir_error(),
        variables={name: os.environ[name] for name in variables if name in os.environ},
        clock_s=time.time(),
    )


def _memory_bytes() -> int:
    """That of the machine, or of the container where it is bounded."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CONTAINER_LIMITS:
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    return min(limits)


def _shm_bytes() -> int | None:
    """All of it: what is in use may be the object store of the Ray that runs here."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:  # not Linux
        return None
    return found.f_blocks * found.f_frsize


def _open_files() -> int:
    """How many files a process may have open when it has raised its limit as far as it may, as Ray does."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 2**31 if hard == resource.RLIM_INFINITY else hard


def _loopback_error() -> str | None:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), CONNECT_WITHIN_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _temp_dir_error() -> str | None:
    try:
        require_temp_dir()
    except ConfigurationError as error:
        return error.message
    return None
