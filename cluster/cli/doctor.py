"""`exlpool doctor`: what is missing for a worker, on this machine or on the nodes of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import ray
import typer
from rich.console import Console

from actors import ConfigurationError, PoolConfig, pool_config
from actors.builtin_model import builtin_model_path
from actors.config import CacheMode, naming, read_settings
from actors.ray_session import ensure_ray
from actors.version import package_version
from cluster.cli import options as opt
from cluster.cli.console import errors

if TYPE_CHECKING:
    from cluster.doctor.facts import Question
    from cluster.doctor.report import Part
    from cluster.doctor.wanted import Wanted

Address = Annotated[
    str | None, typer.Option(help="Look at every node of this Ray cluster (HOST:PORT, or auto); none: at this machine.")
]
Gpu = Annotated[bool | None, typer.Option("--gpu/--no-gpu", help="Is a GPU worker wanted? None: where there is a GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print facts and findings as JSON.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of a pool or deployment that is to run.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The model that is to fit; what was not given is None."""

    model: Annotated[Path | None, typer.Option(help="Directory of the model that is to fit.")] = None
    engine: Annotated[str | None, typer.Option(help="auto, cpu, exllamav2 or simulated.")] = None
    cache_tokens: Annotated[int | None, typer.Option(help="Key-value cache of each worker, a multiple of 256.")] = None
    cache_mode: Annotated[CacheMode | None, typer.Option(help="fp16, q8, q6 or q4.")] = None
    context_tokens: Annotated[int | None, typer.Option(help="Bound on prompt + completion; none: the model's.")] = None
    gpus_per_worker: Annotated[float | None, typer.Option(help="GPUs of each worker; a fraction shares one.")] = None
    config: Config = None

    def pools(self) -> tuple[PoolConfig, ...]:
        """Of the file with single options over it; none where nothing was given.

        :raises ConfigurationError: in one sentence what is wrong.
        """
        chosen: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        file = chosen.pop("config", None)
        if file is None:
            return (pool_config(**chosen),) if chosen else ()
        with naming(file):
            return _pools_of(read_settings(file), chosen)


def _pools_of(settings: dict[str, Any], chosen: dict[str, Any]) -> tuple[PoolConfig, ...]:
    """Of a file for a pool, or of one for `exlpool serve` or `exlpool up`, which may have several models."""
    from cluster.config import cluster_config
    from serve_app.config import ListenConfig

    if "applications" in settings:
        raise ConfigurationError("it has `applications`, so it is for `exlpool deploy`: name its model with --model.")
    if settings.keys() <= PoolConfig.model_fields.keys():
        return (pool_config(**{**settings, **chosen}),)
    served = cluster_config(
        **{name: value for name, value in settings.items() if name not in ListenConfig.model_fields}
    )
    return tuple(pool_config(**{**_pool_fields(model), **chosen}) for model in served.models)


def _pool_fields(model: PoolConfig) -> dict[str, Any]:
    return model.model_dump(exclude_unset=True, include=PoolConfig.model_fields.keys() - {"name"})


@opt.with_option_groups
def doctor(*, address: Address = None, gpu: Gpu = None, models: ModelOptions, as_json: AsJson = False) -> None:
    """Say what is missing for a worker here, or on the nodes of a cluster, and how to get it."""
    from cluster.doctor import report
    from cluster.doctor.facts import Question
    from cluster.doctor.gather import read_model
    from cluster.doctor.judge import all_good
    from cluster.doctor.judge_system import WANTED_VARIABLES
    from cluster.doctor.trial import SCRIPT
    from cluster.doctor.wanted import Wanted

    wanted = Wanted(package_version(), read_model(builtin_model_path()), gpu, models.pools())
    question = Question(SCRIPT, wanted.model_paths, tuple(WANTED_VARIABLES), try_gpu=bool(gpu))
    with errors.status("Looking, which takes as long as importing torch"):
        parts = _look_here(question, wanted) if address is None else _look_at_nodes(address, question, wanted)
    if as_json:
        print(report.as_json(parts))
    else:
        report.print_tables(parts, Console())
    good = all(all_good(part.findings) for part in parts)
    raise typer.Exit(0 if good else 1)


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def _look_here(question: Question, wanted: Wanted) -> list[Part]:
    from cluster.doctor.gather import gather
    from cluster.doctor.judge import judge_machine
    from cluster.doctor.report import Part

    machine = gather(question)
    return [Part(machine.host, judge_machine(machine, wanted), machine)]


def _look_at_nodes(address: str, question: Question, wanted: Wanted) -> list[Part]:
    from cluster.doctor.judge import judge_cluster, judge_node
    from cluster.doctor.nodes import ask_nodes
    from cluster.doctor.report import Part

    owns_ray = ensure_ray(address, quiet=True)
    try:
        nodes = ask_nodes(question)
    finally:
        if owns_ray:
            ray.shutdown()
    parts = [Part(node.name, judge_node(node, wanted), node.machine) for node in nodes]
    return [*parts, Part("all nodes", judge_cluster(nodes, wanted))]
