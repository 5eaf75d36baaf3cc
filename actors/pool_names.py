"""The names by which the actors of pools are found, from every process of their cluster.

A pool that somebody starts has the name that he chose. That of a served model has the model's, and behind it a mark
of its settings and of its life: so a new version of it can load while the old one serves, and Ray, which frees names
late, has them for both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from ray.util import list_named_actors

from actors.config import POOL_NAME
from actors.ray_session import NAMESPACE, SLOT_PREFIX

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_STEM_CHARACTERS = 40
_SERVED = re.compile(r"(?P<stem>.+)\.[0-9a-f]{10}-(?P<life>[0-9a-f]{9})")
_WORKER = re.compile(rf".+\.{SLOT_PREFIX}\d+")
_LIVES_PER_S = 16


def pool_stem(model_name: str) -> str:
    """What the name of a served model's pool begins with; marks of its settings and of its life follow."""
    return _NOT_IN_A_NAME.sub("-", model_name)[:_STEM_CHARACTERS]


def served_pool_name(model_name: str, life: str) -> str:
    """The name of a served model's pool. `life` is a key of 10 hexadecimal digits, a "-", and a `new_life()`."""
    return f"{pool_stem(model_name)}.{life}"


def new_life() -> str:
    """A mark of a pool's life: of two pools, the one that was started later has the greater one."""
    return f"{int(time.time() * _LIVES_PER_S):09x}"


def model_of_pool(name: str) -> str:
    """The name by which a pool is asked for: of a served model's pool the model's, as far as it tells it."""
    served = _SERVED.fullmatch(name)
    return served["stem"] if served else name


def pools_meant(name: str, pools: Iterable[str]) -> list[str]:
    """The pools that may be meant by a name, the one that was started last first: the only one that has it, or else
    those of the served model, of which there are several while one takes the place of another."""
    found = set(pools)
    if name in found:
        return [name]
    stem = pool_stem(name)
    served = {pool: match["life"] for pool in found if (match := _SERVED.fullmatch(pool)) and match["stem"] == stem}
    return sorted(served, key=lambda pool: served[pool], reverse=True)


def running_pools() -> list[str]:
    """The names of all pools of the cluster that this process is connected to, in order."""
    taken = {entry["name"] for entry in list_named_actors(all_namespaces=True) if entry["namespace"] == NAMESPACE}
    return sorted(name for name in taken if POOL_NAME.fullmatch(name) and not _WORKER.fullmatch(name))


def closed_words(pool: str, otherwise: str = "The pool was closed.") -> str:
    """What is told to whoever uses a pool that somebody else has ended: that of a served model has a successor."""
    model = model_of_pool(pool)
    if model == pool:
        return otherwise
    return (
        f"This pool of {model} was closed: its application was changed, or is gone. "
        f"Pool.connect({model!r}) finds the one that serves now."
    )
