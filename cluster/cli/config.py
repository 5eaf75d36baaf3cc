"""`exlpool config`: the settings that there are, and those that a file makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from actors import ConfigurationError


def config(
    file: Annotated[
        Path | None, typer.Argument(help="YAML file for `exlpool up`: print its settings, with those of EXLPOOL_….")
    ] = None,
    *,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of such a file.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print such a file, with all settings explained.")] = False,
) -> None:
    """Say which settings there are, or check a file and print what it comes to."""
    if (file is not None) + schema + example != 1:
        raise ConfigurationError("Say one of FILE, --schema and --example.")
    if example:
        from cluster.example import example as text

        print(text(), end="")
    elif schema:
        from cluster.config import ClusterConfig

        print(json.dumps(ClusterConfig.model_json_schema(), indent=2))
    elif file is not None:
        from cluster.cli.settings import cluster_settings
        from cluster.up import check

        settings = cluster_settings(file, {})
        check(settings)
        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")


def register(app: typer.Typer) -> None:
    app.command()(config)
