"""Command-line options that several commands share, under the same words as in Python and YAML."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from actors import ConfigurationError, Pool, PoolConfig
from actors.sampling import sampling_params
from actors.script.starting import ProgressCallback
from cluster.cli.settings import pool_settings
from cluster.cli.sources import require_utf8

Config = Annotated[Path | None, typer.Option(help="YAML file with settings of the pool; options go before it.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends a completion; may be given several times.")]
Running = Annotated[
    str | None,
    typer.Option("--pool", help="Name of a pool that runs, or of a served model: use it instead of starting one."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to use; none: RAY_ADDRESS, else a private one on this machine.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What workers are made of, and how many; what was not given is None."""

    model: Annotated[
        Path | None, typer.Option(help="Model directory, or org/name of a downloaded one; none: the built-in.")
    ] = None
    workers: Annotated[int | None, typer.Option(min=1, help="Workers to start, each with a model of its own.")] = None
    min_workers: Annotated[int | None, typer.Option(min=0, help="An idle pool shrinks to it; none: --workers.")] = None
    max_workers: Annotated[int | None, typer.Option(min=1, help="A busy pool grows to it; none: --workers.")] = None
    engine: Annotated[str | None, typer.Option(help="auto, cpu, exllamav2 or simulated.")] = None
    cache_tokens: Annotated[int | None, typer.Option(help="Key-value cache of each worker, a multiple of 256.")] = None
    cache_mode: Annotated[str | None, typer.Option(help="How precise the cache is: fp16, q8, q6 or q4.")] = None
    context_tokens: Annotated[int | None, typer.Option(help="Bound on prompt + completion; none: the model's.")] = None
    max_batch_size: Annotated[int | None, typer.Option(help="Jobs of a worker that decode together.")] = None
    cpus_per_worker: Annotated[float | None, typer.Option(help="CPUs that each worker claims from Ray.")] = None
    gpus_per_worker: Annotated[float | None, typer.Option(help="GPUs of each worker; a fraction shares one.")] = None
    placement: Annotated[
        str | None, typer.Option(help="spread: workers on as many nodes as there are; pack: on as few as hold them.")
    ] = None
    gpu_split: Annotated[str | None, typer.Option(help="GB of weights per GPU of a worker, such as 20,24.")] = None
    draft_model: Annotated[Path | None, typer.Option(help="Small model with the same tokenizer that drafts.")] = None
    lora: Annotated[Path | None, typer.Option(help="Directory of a LoRA adapter.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions(WorkerOptions):
    """A pool that a command starts for itself: its workers, and where they run."""

    config: Config = None
    running: Running = None
    address: Address = None

    def settings(self) -> PoolConfig | None:
        """From the file, single options, or both, where single options win; None: the pool runs already.

        :raises ConfigurationError: in one sentence what is wrong.
        """
        chosen = given(self)
        chosen.pop("address", None)
        if chosen.pop("running", None) is not None:
            if chosen:
                told = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
                raise ConfigurationError(f"--pool uses a pool as it runs: leave {told} out.", param=min(chosen))
            return None
        return pool_settings(chosen.pop("config", None), chosen)


@contextmanager
def opened_pool(options: PoolOptions, settings: PoolConfig | None, progress: ProgressCallback) -> Iterator[Pool]:
    """The pool that `options` name, or one with these settings for as long as the `with` block lasts."""
    if settings is None:
        assert options.running is not None
        from cluster.own_cluster import address_of_running

        found = Pool.connect(options.running, address=address_of_running(options.address))
    else:
        found = Pool.start(config=settings, address=options.address, progress=progress)
    with found:
        yield found


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen and where a completion ends; what was not given is None."""

    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Bound on each completion.")] = None
    temperature: Annotated[float | None, typer.Option(help="0 is greedy, 1 the model's own distribution.")] = None
    top_k: Annotated[int | None, typer.Option(help="Choose among the k most likely tokens.")] = None
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the most likely tokens that hold this probability.")
    ] = None
    min_p: Annotated[float | None, typer.Option(help="Drop tokens below this share of the most likely one.")] = None
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 discourages repeats.")] = None
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.")] = None
    stop: Stop = None

    def settings(self) -> dict[str, Any]:
        """Those that were given, checked before any worker starts.

        :raises InvalidRequest: in one sentence what is wrong.
        """
        chosen = given(self)
        sampling_params(**chosen)
        return chosen


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options, each as one argument.

    A parameter `workers: WorkerOptions` becomes, in its place on the command line, one option for each field of the
    dataclass. Typer reads a command's options from its signature, so this is a matter of showing it another one.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    groups = {name: hints[name] for name in signature.parameters if is_dataclass(hints[name])}

    @functools.wraps(command)
    def call(**values: Any) -> None:
        for name, value in values.items():
            for text in value if isinstance(value, list) else (value,):
                if isinstance(text, str | Path):
                    require_utf8(str(text), name)  # Ray takes no command line that is no text
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    def parameters() -> Iterator[inspect.Parameter]:
        for parameter in signature.parameters.values():
            if parameter.name not in groups:
                yield parameter.replace(annotation=hints[parameter.name])
                continue
            group = groups[parameter.name]
            group_hints = typing.get_type_hints(group, include_extras=True)
            for field in fields(group):
                yield inspect.Parameter(
                    field.name, parameter.kind, default=field.default, annotation=group_hints[field.name]
                )

    call.__signature__ = inspect.Signature(list(parameters()))  # type: ignore[attr-defined]
    return call


def given(options: WorkerOptions | SamplingOptions | None = None, **values: Any) -> dict[str, Any]:
    """The options that were given on the command line, by name."""
    if options is not None:
        values = {field.name: getattr(options, field.name) for field in fields(options)} | values
    return {name: value for name, value in values.items() if value is not None and value != []}
