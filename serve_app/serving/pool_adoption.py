"""The actors of a pool whose holder is gone: found by their names, and held again."""

from __future__ import annotations

import contextlib
import time

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from actors.errors import ConfigurationError, PoolNotFound
from actors.launch import Launched, find_members
from actors.ray_session import NAMESPACE
from serve_app.config import ModelConfig
from serve_app.serving.pool_names import actors_of

ANSWER_S = 5.0
"""Time that a dispatcher has to answer; one that is just restarting is asked again."""
TRIES = 3
FREE_S = 10.0
POLL_S = 0.1


def find_running(config: ModelConfig, key: str) -> tuple[str, Launched] | None:
    """The life and the actors of the pool with these settings that still runs; what is left of another is ended.

    :raises ConfigurationError: it does not end.
    """
    prefix = config.pool(f"{key}-").name
    for name in actors_of(config, key):
        if "." in name.removeprefix(prefix):
            continue  # a worker
        with contextlib.suppress(PoolNotFound):  # it ended meanwhile
            members = find_members(name)
            if _answers(members):  # its dispatcher was started last, so the pool is whole
                return name.rpartition("-")[2], members
    end_all(config, key)
    return None


def end_all(config: ModelConfig, key: str) -> None:
    """End the actors of all pools with these settings, and wait until no one of them can be found.

    :raises ConfigurationError: they do not go.
    """
    deadline_s = time.monotonic() + FREE_S
    while left := actors_of(config, key):
        if time.monotonic() > deadline_s:
            raise ConfigurationError(f"The old pool {left[0]} does not end.")
        for name in left:
            with contextlib.suppress(ValueError, RayError):
                ray.kill(ray.get_actor(name, namespace=NAMESPACE))
        time.sleep(POLL_S)  # a poll, bounded by the deadline above


def _answers(members: Launched) -> bool:
    for _ in range(TRIES):
        try:
            ray.get(members.dispatcher.config.remote(), timeout=ANSWER_S)
        except (ActorDiedError, GetTimeoutError):
            return False
        except RayError:
            time.sleep(POLL_S)  # it restarts
        else:
            return True
    return False
