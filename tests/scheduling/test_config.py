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


@pytest.mark.parametrize("weight", [0.0, -2.0, float("nan"), float("inf")])
def test_weights_must_be_above_zero(weight: float) -> None:
    with pytest.raises(ConfigurationError, match="weight of tenant 'a'"):
        SchedulerConfig(tenant_weights={"a": weight})
    assert SchedulerConfig(tenant_weights={"a": 0.5}).tenant_weights == {"a": 0.5}
