"""What makes a pool safe to send: it goes to processes of its own cluster only."""

from __future__ import annotations

from typing import Any

from actors.errors import ConfigurationError
from actors.ray_session import cluster_id


class SameCluster:
    """Arrives only in a process of the cluster that it was sent from.

    Put it before what is of use there alone, such as handles of actors: elsewhere they would make calls that nobody
    answers, or be refused in words of Ray's.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (cluster_id(),)


def _arrive(cluster: str | None) -> SameCluster:
    """:raises ConfigurationError: this process belongs to another cluster, or to none."""
    if cluster is None or cluster_id() != cluster:
        raise ConfigurationError(
            "A pool can be sent to tasks and actors of its own Ray cluster only; other processes find it with "
            "Pool.connect(name, address=...)."
        )
    return SameCluster()
