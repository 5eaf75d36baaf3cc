"""The actors of a pool, for those who break them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import ray
from ray.exceptions import RayError

from actors import PoolConfig
from actors.ray_session import NAMESPACE, worker_name

ASK_S = 10.0


def worker_handle(config: PoolConfig, slot_name: str) -> Any:
    return ray.get_actor(worker_name(config.name, slot_name), namespace=NAMESPACE)


def slot_names(config: PoolConfig) -> list[str]:
    return [f"worker-{index}" for index in range(config.workers)]


async def worker_pids(config: PoolConfig) -> dict[str, int]:
    """By slot name, the process of every worker that answers now."""
    found: dict[str, int] = {}
    for slot_name in slot_names(config):
        with contextlib.suppress(RayError, TimeoutError, ValueError):  # it is being restarted
            async with asyncio.timeout(ASK_S):
                found[slot_name] = (await worker_handle(config, slot_name).heartbeat.remote()).pid
    return found
