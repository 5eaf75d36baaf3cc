"""The scheduler's settings."""

from __future__ import annotations

from typing import Any

import pytest

from actors.errors import ConfigurationError
from actors.scheduling.config import SchedulerConfig


def test_the_defaults_are_valid_and_frozen() -> None:
    config = SchedulerConfig()
    assert config.policy == "cost"
    with pytest.raises(AttributeError):
        config.seed = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.tenant_weights["a"] = 2.0  # type: ignore[index]


@pytest.mark.parametrize("name", ["max_queued_requests", "max_wait_s", "max_batch_wait_s", "start_lease_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_bounds_must_be_above_zero(name: str, value: float) -> None:
    values: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=f"{name} must be above 0") as caught:
        SchedulerConfig(**values)
    assert caught.value.param == name


@pytest.mark.parametrize(
    "weight", [0.0, -2.0, float("nan"), float("inf"), 1e-300, 0.00099, 1000.1, 1e300, 10**400, True, "2", None]
)
def test_weights_are_numbers_within_bounds(weight: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"weight of tenant 'a' must be (a number|from 0.001 to 1000), not"):
        SchedulerConfig(tenant_weights={"a": weight})


@pytest.mark.parametrize("weight", [0.001, 0.5, 1, 1000])
def test_weights_within_bounds_are_taken(weight: float) -> None:
    assert SchedulerConfig(tenant_weights={"a": weight}).tenant_weights == {"a": weight}
