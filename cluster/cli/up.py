"""`exlpool up`, `exlpool status`, `exlpool down`: a deployment that one file describes, and what of it runs where."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from cluster.cli import interrupts
from cluster.cli import options as opt
from cluster.cli.console import errors

if TYPE_CHECKING:
    from cluster.report import DeploymentReport, WorkerPlace

Name = Annotated[str, typer.Option(help="Name of the application, as the file has it.")]
Address = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of a Ray cluster; none: RAY_ADDRESS, else the one that was started on this machine."),
]
LEFT_RUNNING = "What was begun goes on: `exlpool status` shows it, and `exlpool down` ends it."


@opt.with_option_groups
def up(
    file: Annotated[Path, typer.Argument(help="YAML file that describes the deployment; `exlpool config --example`.")],
    *,
    workers: opt.WorkerOptions,
    address: Address = None,
    timeout_s: Annotated[float, typer.Option(min=1.0, help="Time that the models have to load.")] = 1800.0,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the file is right.")] = False,
    delete_others: Annotated[
        bool, typer.Option("--delete-others", help="End applications that run and are not in the file.")
    ] = False,
) -> None:
    """Bring a machine or a cluster to what a file says, and wait until it runs. It stays until `exlpool down`."""
    from cluster import up as deployment
    from cluster.cli.settings import cluster_settings

    config = cluster_settings(file, opt.given(workers))
    if check:
        deployment.check(config)
        _say(f"{file} is right.")
        return
    lines = _WorkerLines()
    with errors.status(f"Bringing up {config.name}"):
        report = deployment.bring_up(
            config, address, timeout_s=timeout_s, delete_others=delete_others, report=_say_begun, progress=lines
        )
    _print(report)


def status(
    *,
    name: Name = "exlpool",
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what of a deployment runs where. Status 1: something of it does not run."""
    from cluster.up import look_at

    report = look_at(name, address)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        _print(report)
    raise typer.Exit(0 if report.well else 1)


def down(
    *,
    name: Name = "exlpool",
    address: Address = None,
    timeout_s: Annotated[float, typer.Option(min=1.0, help="Time that running requests have to end.")] = 600.0,
) -> None:
    """End a deployment: its requests first, then its pools, then the Ray cluster if `exlpool up` has started it."""
    from cluster.up import take_down

    with errors.status(f"Taking down {name}"):
        take_down(name, address, timeout_s=timeout_s, report=_say)


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(status)
    app.command()(down)


class _WorkerLines:
    """Says a line for every worker whenever something about it changes."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], str] = {}

    def __call__(self, report: DeploymentReport) -> None:
        for model in report.models:
            for worker in model.workers:
                line = _line(worker)
                if self._told.get((model.name, worker.name)) != line:
                    self._told[model.name, worker.name] = line
                    _say(f"{model.name} {line}")


def _say_begun(words: str) -> None:
    interrupts.say_when_interrupted(LEFT_RUNNING)
    _say(words)


def _say(words: str) -> None:
    errors.print(Text(words), soft_wrap=True)


def _line(worker: WorkerPlace) -> str:
    node = f"node {worker.node}" if worker.node else ""
    gpus = f"GPU {','.join(worker.gpus)}" if worker.gpus else ""
    parts = (worker.name, worker.state, node, gpus, worker.detail)
    return "  ".join(part for part in parts if part)


def _print(report: DeploymentReport) -> None:
    print(f"{report.application}  {report.status}  {' '.join(report.urls)}".rstrip())
    if report.message:
        print(f"  {report.message}")
    for model in report.models:
        print(f"model {model.name}" if model.pool else f"model {model.name}  no pool")
        for worker in model.workers:
            print(f"  {_line(worker)}")
    for front in report.fronts:
        print(f"front  {front.state}  node {front.node}")
