"""How a script comes to a Ray cluster: never to a stranger's one unasked."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import warnings
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.runtime_context import get_runtime_context
from ray.util import get_node_ip_address

from actors.cluster_room import mark_private
from actors.errors import ConfigurationError, PoolClosed, first_line
from actors.ray_checks import require_cluster, require_temp_dir
from actors.ray_token import tokens_forbidden, use_tokens

NAMESPACE = "exlpool"
SLOT_PREFIX = "worker-"
"""Of the names of a pool's slots; a number follows."""
STREAM_BACKPRESSURE = 16
"""Unread messages of a stream before its producer waits; what comes meanwhile joins into one message."""
DIED_TIMES, DIED_PAUSE_S, DIED_ANSWER_S = 3, 0.3, 5.0
"""How often, and at what intervals, an actor must be told to have died before it is taken for gone."""

QUICK_NEWS = {
    # A call or stream of a process that has died fails only when Ray has waited for the reason, for a second, and looks
    # whether it has waited long enough every second: both are a pause in every stream that the process made.
    "RAY_timeout_ms_task_wait_for_death_info": "100",
    "RAY_core_worker_internal_heartbeat_ms": "100",
}
"""What a process that calls actors finds in its environment, so that it hears soon of their deaths (seen with Ray 2.60:
0.1 to 0.2 s instead of 1.1 to 1.9 s after a kill -9)."""

PRIVATE_CLUSTER = {
    **QUICK_NEWS,
    "RAY_USAGE_STATS_ENABLED": "0",
    # A process that is just starting when the script is killed looks for its dead cluster five times this long.
    "RAY_gcs_rpc_server_connect_timeout_s": "1",
    # Ray asks a process to end itself and kills it after this time, unless the connection has failed before: then it
    # takes the process for dead. To one that is stopped a connection fails after 5 s, which is Ray's default here too,
    # so that one process in three or four was never killed (seen with Ray 2.60).
    "RAY_kill_worker_timeout_milliseconds": "2000",
    # A node whose Ray has died is dead after five checks in a row that find nobody, which takes 13 to 15 s by default:
    # until then its workers are not started elsewhere. One that is only slow has the same time to answer as ever.
    "RAY_health_check_period_ms": "1000",
}
"""What the processes of a cluster that we start find in their environment, where it does not say something else."""


def prepare_private_cluster() -> None:
    """Call before `ray.init` starts a cluster of our own."""
    _set_defaults(PRIVATE_CLUSTER)


def _set_defaults(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def worker_name(pool: str, slot_name: str) -> str:
    """The Ray name of a worker, by which the dispatcher finds it, in every life of either."""
    return f"{pool}.{slot_name}"


def find_actor(name: str) -> Any:
    """The actor of this name, or None: there is none, or nobody could say. It asks the cluster, and blocks."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except (ValueError, RayError):
        return None


def ensure_ray(address: str | None, *, quiet: bool = False) -> bool:
    """Use the Ray that is there already, else the one asked for (`address`, or the RAY_ADDRESS of the environment),
    else a fresh private one on this machine. Returns whether this call connected, so that the caller disconnects.
    `quiet`: what the cluster's processes print is not printed here.

    :raises ConfigurationError: there is no cluster at the address, or none can be started here; in one sentence.
    """
    if ray.is_initialized():
        if _started_here():
            mark_private()
        return False
    target = _target(address)
    if target == "local":
        require_temp_dir()
        use_tokens(not tokens_forbidden())
        prepare_private_cluster()
    else:
        found = require_cluster(target)
        target = found.address  # to which Ray does not take a token along that nobody has asked for
        use_tokens(found.token is not None)
        _set_defaults(QUICK_NEWS)
    # Ray says at every start that a private cluster asks for a token, which is its default and needs no action.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    private = {"include_dashboard": False} if target == "local" else {}
    try:
        ray.init(address=target, namespace=NAMESPACE, logging_level=logging.WARNING, log_to_driver=not quiet, **private)  # type: ignore[arg-type]
    except Exception as error:  # Ray has no one type for what can go wrong here, and raises bare `Exception` too
        ray.shutdown()  # what it had started by then
        what = "start a private Ray cluster" if target == "local" else f"connect to a Ray cluster at {target!r}"
        raise ConfigurationError(f"Cannot {what}: {first_line(error)}") from error
    if target == "local":
        mark_private()
    return True


def starts_private_cluster(address: str | None) -> bool:
    """Whether `ensure_ray` would start one: then all workers run on this machine."""
    return not ray.is_initialized() and _target(address) == "local"


def _target(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _started_here() -> bool:
    """Whether this process has itself started the cluster that it is connected to, by `ray.init`: such a one ends with
    it, and nobody adds machines to it."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.head)


def open_stream(method: Any, *arguments: Any) -> Any:
    """Call an actor's generator method: an async iterator of references, one for each of its messages.

    Backpressure is always on, since only then Ray closes the stream at its producer when its reader's process is gone.
    """
    return method.options(num_returns="streaming", _generator_backpressure_num_objects=STREAM_BACKPRESSURE).remote(
        *arguments
    )


def cancel_stream(stream: Any) -> None:
    """End a stream at its producer. Without a connection the stream is gone already, and `ray.cancel` would quietly
    start a new cluster to look for it."""
    if ray.is_initialized():
        ray.cancel(stream)


async def is_gone(actor: Any) -> bool:
    """Whether an actor has ended for good, as far as Ray says: of one that it starts again it may say at first, too,
    that it has died. False where nobody knows."""
    for _ in range(DIED_TIMES):
        try:
            async with asyncio.timeout(DIED_ANSWER_S):
                await actor.__ray_ready__.remote()
        except ActorDiedError:
            await asyncio.sleep(DIED_PAUSE_S)
        except (RayError, TimeoutError):
            return False
        else:
            return False
    return True


def cluster_id() -> str | None:
    """The name of the cluster that this process is connected to, the same in all of its processes; None: there is no
    connection. Never connects: `ray.get_runtime_context` would, this one does not."""
    return get_runtime_context().get_session_name() if ray.is_initialized() else None


def was_restarted() -> bool:
    """Whether the actor that this process is of has had a process before."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # Ray calls something old of its own
        return bool(get_runtime_context().was_current_actor_reconstructed)


def own_node_id() -> str:
    """Ray's name of the node that this process runs on; empty without a connection."""
    return str(get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def own_node() -> str:
    """The address of the node that this process runs on, as Ray shows it to people; empty without a connection."""
    return str(get_node_ip_address()) if ray.is_initialized() else ""  # type: ignore[no-untyped-call]


def own_node_name() -> str:
    """How errors call the node that this process runs on: its address, and the name that people gave the machine."""
    address, host = own_node(), socket.gethostname()
    return f"{address} ({host})" if address else host


def own_gpus() -> tuple[str, ...]:
    """The ids of the GPUs that Ray has given to this process, as they are numbered on its node."""
    return tuple(get_runtime_context().get_accelerator_ids()["GPU"]) if ray.is_initialized() else ()


class RaySession:
    """The connection to Ray that this process had when this was made. It ends with `ray.shutdown`, and a later
    `ray.init` does not bring it back.

    Calls go through it wherever they may come after that end, such as from a background task: without a connection
    Ray answers a call by joining whatever cluster runs on the machine, or by starting one.
    """

    def __init__(self) -> None:
        self._id = _session_id()

    @property
    def over(self) -> bool:
        return _session_id() != self._id

    def require(self) -> None:
        """:raises PoolClosed: the connection has ended."""
        if self.over:
            raise PoolClosed("The pool's connection to Ray has ended: ray.shutdown() was called.")

    def call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        """A call of an actor's method.

        :raises PoolClosed: the connection has ended.
        """
        self.require()
        return method.remote(*arguments, **options)

    def open_stream(self, method: Any, *arguments: Any) -> Any:
        """:raises PoolClosed: the connection has ended."""
        self.require()
        return open_stream(method, *arguments)

    def cancel_stream(self, stream: Any) -> None:
        if not self.over:
            cancel_stream(stream)

    def __repr__(self) -> str:
        return f"<RaySession: {'over' if self.over else 'open'}>"


def _session_id() -> tuple[str, str] | None:
    cluster = cluster_id()
    return None if cluster is None else (cluster, get_runtime_context().get_worker_id())
