"""Judging what every worker needs, with a GPU or without: Python, Ray, limits of the system."""

from __future__ import annotations

from actors.ray_session import PRIVATE_CLUSTER
from cluster.doctor.facts import Machine
from cluster.doctor.findings import Finding, missing, ok, warning

PYTHONS = ((3, 11), (3, 14))
"""From the first, below the second: `requires-python`."""
OLDEST_RAY = (2, 60)
FEWEST_OPEN_FILES = 8192
"""What Ray itself advises; it needs a descriptor for each connection between two processes."""
OBJECT_STORE_SHARE, OBJECT_STORE_SMALL_BYTES, OBJECT_STORE_MOST_BYTES = 0.3, 10 * 10**9, 200 * 10**9
"""How Ray sizes its object store: this share of memory, at most the last; more than the second only as far as shared
memory goes (`ray._private.utils.resolve_object_store_memory`, 2.60)."""
GB = 10**9

WANTED_VARIABLES = {
    name: PRIVATE_CLUSTER[name]
    for name in (
        "RAY_timeout_ms_task_wait_for_death_info",
        "RAY_core_worker_internal_heartbeat_ms",
        "RAY_kill_worker_timeout_milliseconds",
        "RAY_health_check_period_ms",
    )
}
"""What processes of a cluster should find in their environment; of our own clusters they do."""


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 8, 3) of "2.8.3.post2+cu130"."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


def judge_system(machine: Machine, exlpool: str) -> tuple[Finding, ...]:
    """`exlpool` is the version that asks."""
    return (
        _python(machine),
        _ray(machine),
        _exlpool(machine, exlpool),
        _shared_memory(machine),
        _open_files(machine),
        _loopback(machine),
    )


def judge_variables(machine: Machine) -> Finding:
    """On a node of a cluster that somebody else has started."""
    absent = [f"{name}={value}" for name, value in WANTED_VARIABLES.items() if name not in machine.system.variables]
    if not absent:
        return ok("environment", "set so that the death of a process or node is noticed soon")
    return warning(
        "environment",
        "a dead process is noticed after 1 to 2 s and a dead node after 13 to 15 s, Ray's defaults",
        f"Set {' '.join(absent)} before `ray start` on every node.",
    )


def _python(machine: Machine) -> Finding:
    oldest, first_unknown = PYTHONS
    if oldest <= version_numbers(machine.python)[:2] < first_unknown:
        return ok("Python", machine.python)
    wanted = f"{oldest[0]}.{oldest[1]} to {first_unknown[0]}.{first_unknown[1] - 1}"
    return missing(
        "Python", f"{machine.python}, and exlpool needs {wanted}", "Make a virtual environment with Python 3.12."
    )


def _ray(machine: Machine) -> Finding:
    oldest = ".".join(map(str, OLDEST_RAY))
    cure = f"pip install 'ray[serve]>={oldest}', the same version on every node."
    if machine.ray is None:
        return missing("Ray", "not installed", cure)
    if version_numbers(machine.ray) < OLDEST_RAY:
        return missing("Ray", f"{machine.ray}, and exlpool needs {oldest} or newer", cure)
    return ok("Ray", machine.ray)


def _exlpool(machine: Machine, wanted: str) -> Finding:
    if machine.exlpool == wanted:
        return ok("exlpool", machine.exlpool)
    found = (
        "not installed, so no worker can start here" if machine.exlpool is None else f"{machine.exlpool}, not {wanted}"
    )
    return missing(
        "exlpool",
        found,
        f"pip install exlpool=={wanted}, or the same checkout, where the environment of `ray start` on that node is.",
    )


def _shared_memory(machine: Machine) -> Finding:
    size = machine.system.shm_bytes
    if size is None:
        return ok("shared memory", "no /dev/shm on this system")
    capped = max(OBJECT_STORE_SMALL_BYTES, int(size * 0.95))
    store = min(int(machine.system.memory_bytes * OBJECT_STORE_SHARE), capped, OBJECT_STORE_MOST_BYTES)
    if store <= size:
        return ok("shared memory", f"{size / GB:.1f} GB in /dev/shm")
    return warning(
        "shared memory",
        f"{size / GB:.1f} GB in /dev/shm, and Ray's object store takes {store / GB:.1f} GB: it will be on disk",
        f"Give the container --shm-size={-(-store // GB)}gb, or mount a larger /dev/shm.",
    )


def _open_files(machine: Machine) -> Finding:
    limit = machine.system.open_files
    if limit >= FEWEST_OPEN_FILES:
        return ok("open files", "no bound" if limit >= 2**31 else f"up to {limit} a process")
    return warning(
        "open files",
        f"up to {limit} a process, and Ray advises {FEWEST_OPEN_FILES} or more",
        "Raise the hard limit (`ulimit -Hn 65536`, LimitNOFILE= of a service, --ulimit nofile=65536 of a container).",
    )


def _loopback(machine: Machine) -> Finding:
    error = machine.system.loopback_error
    if error is None:
        return ok("loopback", "127.0.0.1 answers")
    return missing("loopback", f"127.0.0.1 does not answer: {error}", "Bring it up: `ip link set lo up`.")


def judge_temp_dir(machine: Machine) -> Finding:
    """On a machine that is to run a cluster of its own; Ray on a node has its files already."""
    error = machine.system.temp_dir_error
    if error is None:
        return ok("temporary files", "Ray can keep its files and sockets")
    problem, _, cure = error.partition("; ")
    return missing("temporary files", problem, f"{cure[:1].upper()}{cure[1:]}")
