"""The settings of the scheduler. All have defaults that suit a pool of consumer GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from actors.errors import ConfigurationError

SMALLEST_WEIGHT = 0.001
LARGEST_WEIGHT = 1000.0
"""A tenant's counter grows by tokens divided by its weight: within these bounds it stays finite, and exact enough."""


def weight_fault(weight: object) -> str | None:
    """What is wrong with a tenant's weight, as the end of a sentence, or None."""
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        return f"must be a number, not {weight!r}"
    if not SMALLEST_WEIGHT <= weight <= LARGEST_WEIGHT:
        return f"must be from {SMALLEST_WEIGHT:g} to {LARGEST_WEIGHT:g}, not {weight}"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """How a scheduler admits, orders and places.

    :raises ConfigurationError: a value is out of range.
    """

    policy: str = "cost"
    """A name of `actors.scheduling.policies.POLICIES`."""
    max_queued_requests: int = 4096
    """Requests that may wait; the next one is refused."""
    max_wait_s: float = 600.0
    """A request of class interactive or default is refused when its estimated wait is longer, or once it has waited
    that long."""
    max_batch_wait_s: float = 86_400.0
    """The same for class batch."""
    start_lease_s: float = 60.0
    """A start that no report of its worker confirms for so long is taken back: nobody has acted on it."""
    stall_timeout_s: float = 60.0
    """A worker that holds attempts and says nothing for so long is suspected: nothing more is placed there, and it is
    asked whether it lives."""
    tenant_weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """A tenant of weight 2 gets twice the tokens of one of weight 1, which is what all others have."""
    seed: int = 0
    """Of the jitter on retry times and of random policies: same seed and events, same actions."""

    def __post_init__(self) -> None:
        for name in ("max_queued_requests", "max_wait_s", "max_batch_wait_s", "start_lease_s", "stall_timeout_s"):
            value = getattr(self, name)
            if not value > 0 or math.isnan(value):
                raise ConfigurationError(f"{name} must be above 0, not {value}.", param=name)
        for tenant, weight in self.tenant_weights.items():
            fault = weight_fault(weight)
            if fault is not None:
                raise ConfigurationError(f"The weight of tenant {tenant!r} {fault}.", param="tenant_weights")
