"""Which engine the workers of a pool run, decided once, before the first of them is started.

The machine that decides may be a head without a GPU, without exllamav2 and without the model. So an engine that the
configuration names is believed, and for `auto` the model's weights and the cluster's nodes are asked. All workers get
the same answer, in their configuration: none of them falls back to another engine by itself. One whose node lacks what
its engine needs says so, with the name of the node (`actors.worker.worker`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from actors.builtin_model import builtin_model_path
from actors.cluster_room import Claim, Growth, alive_nodes, growth, node_types
from actors.config import PoolConfig
from actors.engines.model_dir import ModelDirectory, inspect_model_dir
from actors.engines.registry import choose_engine, require_readable_by_cpu
from actors.errors import ConfigurationError, ModelError
from actors.ray_nodes import asked_of, other_nodes

C = TypeVar("C", bound=PoolConfig)


def decide_engine(config: C) -> C:
    """The configuration with its engine named. For `auto` the weights decide, and for unquantised ones whether the
    cluster has GPUs, or could have (`actors.engines.registry.choose_engine`). What was `auto` still counts as not set,
    so that it is decided anew for another model.

    :raises ModelError: no engine reads the model, or none without a GPU on a machine that has none, or no node has it.
    :raises ConfigurationError: the engine needs a GPU and `gpus_per_worker` is 0.
    """
    if config.engine == "auto":
        model = find_model(config)
        gpus = config.gpus_per_worker != 0 and cluster_has_gpus(config.node_labels)
        decided = with_engine(config, choose_engine(model, builtin=config.model is None, gpus=gpus))
        if decided.engine == "exllamav2" and config.gpus_per_worker != 0 and not gpus and growth() is Growth.NEVER:
            raise ModelError(
                f"{model.path} ({model.kind}) is to run on ExLlamaV2, which needs an NVIDIA GPU, and this machine "
                "has none: run it on a machine with one, or use unquantised weights with `engine: cpu`."
            )
    else:
        decided = config
        if config.engine == "cpu":
            _refuse_quantised(config)
    if decided.engine == "exllamav2" and config.gpus_per_worker == 0:
        raise ConfigurationError(
            "ExLlamaV2 needs a GPU, and with `gpus_per_worker` 0 its workers have none: leave it out, or use "
            "unquantised weights with `engine: cpu`.",
            param="gpus_per_worker",
        )
    return decided


def with_engine(config: C, engine: str) -> C:
    """The configuration with an engine that was decided for it, not set by its user."""
    decided = config.model_copy(update={"engine": engine})
    decided.model_fields_set.discard("engine")
    return decided


def find_model(config: PoolConfig) -> ModelDirectory:
    """What the model directory holds: this machine's, and where that is not usable the first one of another node's.

    :raises ModelError: no node has a usable one.
    """
    path = config.model or builtin_model_path()
    try:
        return inspect_model_dir(path)
    except ModelError:
        nodes = other_nodes()
        found = next(filter(None, asked_of(nodes, inspect_model_dir, path)), None)
        if found is not None:
            return found
        if not nodes or path.exists():
            raise
    asked = ", ".join(str(node["NodeManagerAddress"]) for node in nodes[:3]) + (", ..." if len(nodes) > 3 else "")
    raise ModelError(
        f"There is no model directory {path}, neither here nor on another node ({asked}): "
        "put it at the same path of every node that is to run workers."
    )


def cluster_has_gpus(labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels has GPUs, or the autoscaler may add nodes that have some, as far as Ray tells:
    of what `ray up` may add it does not."""
    one_gpu = Claim(gpus=1.0, labels=labels)
    return any(node.holds(one_gpu) for node in alive_nodes()) or any(kind.get("GPU") for kind in node_types() or ())


def _refuse_quantised(config: PoolConfig) -> None:
    """As far as this machine can see: where it has no such directory, or half of one, the workers will say."""
    try:
        model = inspect_model_dir(config.model or builtin_model_path())
    except ModelError:
        return
    require_readable_by_cpu(model)
