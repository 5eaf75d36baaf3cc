"""What a file, the environment and the command line say together: the later one wins."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.text import Text

from actors.config import Exllamav2Options, PoolConfig, naming, pool_config, read_settings
from actors.errors import ConfigurationError
from cluster.cli.console import errors
from cluster.config import OF_A_MODEL, ClusterConfig, HttpConfig, cluster_config
from cluster.environment import Variable, merged, nested, variables
from serve_app.config import ModelConfig, ServeConfig, serve_config

C = TypeVar("C", bound=BaseModel)
_ONLY_OF_CLUSTERS = frozenset(ClusterConfig.model_fields) - frozenset(ServeConfig.model_fields)


def pool_settings(file: Path | None, chosen: Mapping[str, Any]) -> PoolConfig:
    """Those of a pool of one's own.

    :raises ConfigurationError: in one sentence what is wrong, and where.
    """
    from_file: dict[str, Any] = {}
    if file is not None:
        from_file = _read(file)
        if "models" in from_file:
            raise ConfigurationError(
                f"{file} has `models`, so it is for `exlpool serve` and `exlpool up`: a pool has one model."
            )
        with naming(file):
            pool_config(**from_file)
    return _together(pool_config, PoolConfig, set(PoolConfig.model_fields), file, from_file, chosen)


def serve_settings(file: Path | None, chosen: Mapping[str, Any]) -> tuple[ServeConfig, HttpConfig]:
    """Those of a server on this machine, and where it listens if they do not say it under `listen`: as in a file that
    is for `exlpool up`.

    :raises ConfigurationError: in one sentence what is wrong, and where.
    """
    from_file = {} if file is None else _read(file)
    http = {"http": from_file.get("http") or {}}
    if file is not None and ("http" in from_file or ("models" in from_file and "name" in from_file)):
        with naming(file):
            cluster_config(**from_file)
        from_file = {name: value for name, value in from_file.items() if name not in _ONLY_OF_CLUSTERS}
    elif file is not None:
        with naming(file):
            serve_config(**from_file)
    for variable in variables(os.environ)[0]:
        if variable.place[0] == "http":
            http = merged(http, nested(variable.place, variable.value))
            _blame(cluster_config, http, variable)
    names = set(ServeConfig.model_fields) | OF_A_MODEL
    return _together(serve_config, ServeConfig, names, file, from_file, chosen), cluster_config(**http).http


def cluster_settings(file: Path, chosen: Mapping[str, Any]) -> ClusterConfig:
    """Those of a deployment.

    :raises ConfigurationError: in one sentence what is wrong, and where.
    """
    from_file = _read(file)
    with naming(file):
        cluster_config(**from_file)
    return _together(
        cluster_config, ClusterConfig, set(ClusterConfig.model_fields) | OF_A_MODEL, file, from_file, chosen
    )


def _read(file: Path) -> dict[str, Any]:
    settings = read_settings(file)
    if "applications" in settings:
        raise ConfigurationError(f"{file} has `applications`, so it is for `exlpool deploy`.")
    return settings


def _together(
    build: Callable[..., C],
    kind: type[C],
    names: set[str],
    file: Path | None,
    from_file: dict[str, Any],
    chosen: Mapping[str, Any],
) -> C:
    """`build` makes a `kind`. `names` are those of the settings that matter here."""
    found, strange = variables(os.environ)
    for sentence in strange:
        errors.print(Text(sentence), soft_wrap=True)
    values = from_file
    for variable in found:
        if variable.place[0] in names:
            values = _with(values, nested(variable.place, variable.value), kind, file, variable.name)
            _blame(build, values, variable)
    for name, value in chosen.items():
        place = ("exllamav2", name) if name in Exllamav2Options.model_fields else (name,)
        values = _with(values, nested(place, value), kind, file, f"--{name.replace('_', '-')}")
    return build(**values)


def _with(
    values: dict[str, Any], more: dict[str, Any], kind: type[BaseModel], file: Path | None, source: str
) -> dict[str, Any]:
    """`values` and `more`, which is put where a file has it: a setting of a model, in the one entry of `models`.

    :raises ConfigurationError: there are several entries.
    """
    models = values.get("models")
    (name,) = more
    if not isinstance(models, list) or name not in ModelConfig.model_fields or name in kind.model_fields:
        return merged(values, more)
    if len(models) > 1:
        raise ConfigurationError(
            f"{source} does not go with {file}, which lists several `models`: set it there for each.", param=name
        )
    return {**values, "models": [merged(models[0], more)]}


def _blame(build: Callable[..., Any], values: dict[str, Any], variable: Variable) -> None:
    try:
        build(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{variable.name}: {error.message}", param=error.param) from None
