"""What a file, the environment and the command line say together: the later one wins."""

from __future__ import annotations

from pathlib import Path

from actors.config import naming, read_settings
from actors.errors import ConfigurationError
from cluster.cli.options import WorkerOptions, given
from cluster.config import ClusterConfig, cluster_config


def cluster_settings(file: Path, workers: WorkerOptions) -> ClusterConfig:
    """:raises ConfigurationError: in one sentence what is wrong, and where."""
    from_file = read_settings(file)
    if "applications" in from_file:
        raise ConfigurationError(f"{file} has `applications`, so it is for `exlpool deploy`.")
    with naming(file):
        cluster_config(**from_file)
    return cluster_config(**{**from_file, **given(workers)})
