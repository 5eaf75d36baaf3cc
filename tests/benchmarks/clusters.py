"""A cluster of a benchmark's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from actors.ray_session import NAMESPACE, prepare_private_cluster


@contextmanager
def private_cluster(num_cpus: int) -> Iterator[None]:
    """It does not repeat here what its processes log: they are killed, and say so."""
    prepare_private_cluster()
    ray.init(
        address="local",
        namespace=NAMESPACE,
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()
