"""Command-line options that several commands share, under the same words as in Python and YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from actors import PoolConfig, load_config, pool_config
from actors.sampling import sampling_params

Model = Annotated[Path | None, typer.Option(help="Model directory; none: the built-in model.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Workers to start, each with a model of its own.")]
Engine = Annotated[str | None, typer.Option(help="auto, cpu, exllamav2 or simulated.")]
CacheTokens = Annotated[int | None, typer.Option(help="Key-value cache of each worker, a multiple of 256.")]
CpusPerWorker = Annotated[float | None, typer.Option(help="CPUs that each worker claims from Ray.")]
GpusPerWorker = Annotated[float | None, typer.Option(help="GPUs of each worker; a fraction shares one.")]
Config = Annotated[Path | None, typer.Option(help="YAML file with settings of the pool; options go before it.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to use; none: RAY_ADDRESS, else a private one on this machine.")
]

MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Bound on each completion.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy, 1 the model's own distribution.")]
TopK = Annotated[int | None, typer.Option(help="Choose among the k most likely tokens.")]
TopP = Annotated[float | None, typer.Option(help="Choose among the most likely tokens that hold this probability.")]
MinP = Annotated[float | None, typer.Option(help="Drop tokens below this share of the most likely one.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1 discourages repeats.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends a completion; may be given several times.")]


def given(**values: Any) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in values.items() if value is not None and value != []}


def sampling(**values: Any) -> dict[str, Any]:
    """The sampling parameters that were given on the command line, checked before any worker starts.

    :raises InvalidRequest: in one sentence what is wrong.
    """
    chosen = given(**values)
    sampling_params(**chosen)
    return chosen


def configuration(config: Path | None, **settings: Any) -> PoolConfig:
    """A pool's configuration from a file, single settings, or both, where single settings win.

    :raises ConfigurationError: in one sentence what is wrong.
    """
    chosen = given(**settings)
    if config is None:
        return pool_config(**chosen)
    loaded = load_config(config)
    return pool_config(**{**loaded.model_dump(exclude_unset=True), **chosen})
