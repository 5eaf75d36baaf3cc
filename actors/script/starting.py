"""A pool that this process has launched: its workers are waited for, and started by this process from then on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.config import PoolConfig
from actors.dispatcher.statistics import WorkerState
from actors.errors import ConfigurationError, PoolClosed, first_line
from actors.ray_failures import plain_reason
from actors.script.loop_thread import LoopThread
from actors.worker_starter import WorkerStarter

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[tuple[WorkerState, ...]], None]


def wait_until_ready(dispatcher: Any, config: PoolConfig, progress: ProgressCallback | None) -> None:
    """Wait for the first worker that can generate, or for all of them, as `wait_for` says. One that fails when the
    first can generate is for the log and for the pool's statistics, unless all are waited for.

    :raises ExlpoolError: a worker could not be loaded, or not in time.
    """
    enough = any if config.wait_for == "first" else all
    deadline_s = time.monotonic() + config.start_timeout_s
    version = -1
    states: tuple[WorkerState, ...] = ()
    while True:
        remaining_s = max(deadline_s - time.monotonic(), 0.0)
        try:
            version, states = ray.get(dispatcher.progress.remote(version), timeout=remaining_s)
        except GetTimeoutError:
            raise ConfigurationError(_too_late(states, config), param="start_timeout_s") from None
        except RayError as error:
            logger.error("The workers cannot be followed while they load: %s", first_line(error))
            raise PoolClosed(f"The pool was lost while its workers loaded: {plain_reason(error)}.") from None
        if progress is not None:
            progress(states)
        if not states or enough(state.worker_id is not None for state in states):
            return  # a pool without workers sleeps: it was up, and the first request wakes it
        for state in states:
            if state.failure is not None:
                raise state.failure


def _too_late(states: tuple[WorkerState, ...], config: PoolConfig) -> str:
    told = f"The workers were not ready within {config.start_timeout_s:g} s"
    waiting = [state for state in states if state.state == "waiting"]
    if not waiting:
        return f"{told}: the cluster may be busy with others, or `start_timeout_s` too short for this model."
    others = f", and so do {len(waiting) - 1} others" if len(waiting) > 1 else ""
    return f"{told}: {waiting[0].slot_name} {waiting[0].waiting}{others}."


def follow_orders(owner: object, dispatcher: Any, starter: WorkerStarter) -> LoopThread:
    """Start and end workers as the dispatcher orders, on a thread that ends with `owner`."""
    thread = LoopThread()
    thread.end_with(owner)
    thread.submit(starter.follow_orders(dispatcher))
    return thread
