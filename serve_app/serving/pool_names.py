"""The names by which the actors of a served pool are found.

A pool belongs to one application and one configuration of a model: so a new version of an application finds the pool
of every model whose settings are the same, starts one beside it where they are not, and a version that is rolled back
finds the pool that it had.
"""

from __future__ import annotations

import hashlib

from ray.util import list_named_actors

from actors.ray_session import NAMESPACE
from serve_app.config import ModelConfig

_PREFIX = "pool holder of "
_KEY_CHARACTERS = 10


def pool_key(app_name: str, config: ModelConfig) -> str:
    """Equal for equal settings of a model in one application."""
    return hashlib.sha256(f"{app_name}\n{config.model_dump_json()}".encode()).hexdigest()[:_KEY_CHARACTERS]


def holder_name(app_name: str, config: ModelConfig) -> str:
    """The Ray name of the holder of a model's pool."""
    return f"{_PREFIX}{config.name} in {app_name} {pool_key(app_name, config)}"


def holders_of(app_name: str) -> dict[str, str]:
    """The holders that there are for an application, each with the name of its model."""
    found = {}
    for entry in list_named_actors(all_namespaces=True):
        name: str = entry["name"]
        if entry["namespace"] != NAMESPACE or not name.startswith(_PREFIX):
            continue
        model, _, rest = name.removeprefix(_PREFIX).partition(" in ")  # the name of a model has no blank
        if rest.rpartition(" ")[0] == app_name:
            found[name] = model
    return found


def actors_of(config: ModelConfig, key: str) -> list[str]:
    """The actors of pools with these settings: those of one pool, unless something went wrong."""
    prefix = config.pool(f"{key}-").name
    return [
        entry["name"]
        for entry in list_named_actors(all_namespaces=True)
        if entry["namespace"] == NAMESPACE and entry["name"].startswith(prefix)
    ]
