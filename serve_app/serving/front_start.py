"""When a replica of the front that begins may take requests."""

from __future__ import annotations

import asyncio
import time

from ray.exceptions import RayError

from serve_app.models.served import Models
from serve_app.serving.pool_lease import get_holder
from serve_app.serving.pool_names import holders_of

POLL_S = 0.1
ASK_S = 1.0
OPENING_S = 30.0
"""Time that a replica has to open its models while others of its version serve in its place."""
ABSENT_S = 60.0
"""An older front that goes from one pool to the next is not seen for a while."""


async def until_ready(app_name: str, front: str, models: Models) -> None:
    """Wait until every model can generate, for as long as somebody else serves: without end while that is an older
    version of the application, which ends when this one begins. Where nobody serves, clients are better told that a
    model is being loaded than not answered at all.

    `front` is the version of the application and the name of this replica, with a blank between them.
    """
    version = front.partition(" ")[0]
    patient_until_s = opening_until_s = time.monotonic() + OPENING_S
    ask_at_s = 0.0
    while not all(model.ready for model in models):
        now_s = time.monotonic()
        if now_s >= ask_at_s:
            ask_at_s = now_s + ASK_S
            others = await _serving(app_name) - {front}
            if any(other.partition(" ")[0] != version for other in others):
                patient_until_s = now_s + ABSENT_S
            elif now_s > patient_until_s or (not others and patient_until_s == opening_until_s):
                return
        await asyncio.sleep(POLL_S)


async def _serving(app_name: str) -> frozenset[str]:
    """The fronts that serve, in the form of `front` above."""
    found: frozenset[str] = frozenset()
    for name in await asyncio.to_thread(holders_of, app_name):
        try:
            found |= await (await get_holder(name)).fronts.remote()
        except (ValueError, RayError):
            continue  # it ends, or is started again
    return found
