"""The end of an application: its requests end first, then its pools."""

from __future__ import annotations

import contextlib
import time

import ray
from ray import serve
from ray.exceptions import RayError

from actors.ray_session import NAMESPACE
from cluster.bounded import call_within
from serve_app.serving.pool_names import holders_of

ANSWER_S = 30.0
CLOSE_TIMEOUT_S = 20.0
ASK_S = 5.0
POLL_S = 0.2


def end_application(name: str, *, timeout_s: float) -> None:
    """Delete it, which waits up to its `drain_s` for its requests; end its pools; and end Serve itself where it has
    nothing else to run.

    :raises ClusterSilent: the cluster does not answer, or it takes longer than `timeout_s`.
    """
    call_within(timeout_s, "delete the application", lambda: serve.delete(name))
    call_within(CLOSE_TIMEOUT_S + ASK_S, "end its pools", lambda: _end_pools(name))
    if not call_within(ANSWER_S, "the status of Ray Serve", serve.status).applications:
        call_within(CLOSE_TIMEOUT_S, "end Ray Serve", serve.shutdown)


def _end_pools(name: str) -> None:
    """At once: a pool whose application was deleted would wait a while for an owner."""
    deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
    while (holders := holders_of(name)) and time.monotonic() < deadline_s:
        for holder in holders:
            with contextlib.suppress(ValueError, RayError):  # it ends
                ray.get(ray.get_actor(holder, namespace=NAMESPACE).end.remote(), timeout=ASK_S)
        time.sleep(POLL_S)  # a poll, bounded by the deadline above
