"""Room on the cluster for a pool that is to replace another: beside it where there is enough, else in its place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from ray.exceptions import RayError

from actors.cluster_room import room_for
from actors.engine_choice import decide_engine
from actors.ray_session import cancel_stream, open_stream
from actors.worker_starter import claim_of_worker
from serve_app.config import ModelConfig
from serve_app.serving.pool_lease import RETRY_S, get_holder, until_gone
from serve_app.serving.pool_names import holder_name, holders_of

logger = logging.getLogger("ray.serve.exlpool")

CALLED_OFF_PAUSE_S = 5.0
"""Whoever called a retirement off is an owner of another version: Serve ends one of the two."""


def has_room(config: ModelConfig, workers: int) -> bool:
    """Whether so many workers of the model fit beside all that runs, as far as Ray tells.

    :raises ModelError: nobody can say what engine it needs.
    """
    return workers <= room_for(claim_of_worker(decide_engine(config)))


async def is_there(app_name: str, config: ModelConfig) -> bool:
    try:
        await get_holder(holder_name(app_name, config))
    except ValueError:
        return False
    return True


async def make_room(app_name: str, config: ModelConfig, models: Sequence[ModelConfig], drain_s: float) -> None:
    """Have the pools of older versions of the application give way to that of a model: those of this model, and those
    of models that no more are there. Returns when they have ended, each after its last request, or after `drain_s`."""
    kept = {holder_name(app_name, model) for model in models}
    names = {model.name for model in models}
    found = await asyncio.to_thread(holders_of, app_name)
    retiring = []
    for holder, model in found.items():
        if holder not in kept and (model == config.name or model not in names):
            logger.info("There is no room for %s beside %s, which ends first", config.name, holder)
            successor = holder_name(app_name, config) if model == config.name else None
            retiring.append(_retire(holder, successor, drain_s))
    await asyncio.gather(*retiring)


async def _retire(name: str, successor: str | None, drain_s: float) -> None:
    while True:
        try:
            holder = await get_holder(name)
        except ValueError:
            return
        stream = open_stream(holder.retire, successor, drain_s)
        try:
            async for beat in stream:
                await beat
        except RayError:
            await asyncio.sleep(RETRY_S)  # it ends, or is started again
        finally:
            cancel_stream(stream)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALLED_OFF_PAUSE_S):
                await until_gone(name)
                return
