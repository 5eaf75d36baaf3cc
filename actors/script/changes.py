"""Changes of a running pool's workers, asked for by a script: told to the dispatcher, through its restarts, and waited
for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig, PoolConfig, pool_config
from actors.dispatcher.statistics import WorkerState
from actors.engine_choice import decide_engine, find_model, with_engine
from actors.errors import ConfigurationError, ExlpoolError, ModelError, NoHealthyWorker, PoolClosed

T = TypeVar("T")

UNREACHABLE_AFTER_S = 60.0
"""A dispatcher that is being restarted is asked again for so long."""
RETRY_S = 0.2
LOOK_S = 0.1
ANY_VERSION = -1
GRACE_S = 30.0
"""What runs on a worker that is to leave has so long to end there; then it goes on elsewhere."""


def scale(dispatcher: Any, config: PoolConfig, workers: int, grace_s: float | None, *, wait: bool) -> None:
    """See `Pool.scale`."""
    tell(lambda: dispatcher.scale.remote(workers, grace_s))

    def scaled(states: tuple[WorkerState, ...]) -> bool:
        _raise_failure(state for state in states if not state.draining)
        by_itself = len(set(config.bounds)) > 1  # then it may have gone on meanwhile
        return all(state.state == "up" for state in states) and (by_itself or len(states) == workers)

    if wait:
        _wait_until(dispatcher, scaled, config, grace_s, f"Scaling to {workers} workers")


def drain(
    dispatcher: Any, config: PoolConfig, worker: str, grace_s: float | None, *, restart: bool, wait: bool
) -> str | None:
    """See `Pool.drain`."""
    successor: str | None = tell(lambda: dispatcher.drain.remote(worker, grace_s, restart=restart))
    slot_name = worker.partition("#")[0]

    def drained(states: tuple[WorkerState, ...]) -> bool:
        others = [state for state in states if state.slot_name == successor]
        _raise_failure(others)
        gone = all(state.slot_name != slot_name for state in states)
        return gone and all(state.state == "up" for state in others)

    if wait:
        _wait_until(dispatcher, drained, config, grace_s, f"Draining {slot_name}")
    return successor


def keep(dispatcher: Any, worker: str) -> None:
    """See `Pool.keep`."""
    tell(lambda: dispatcher.keep.remote(worker))


def replace(dispatcher: Any, settings: dict[str, Any], grace_s: float | None, *, wait: bool) -> None:
    """See `Pool.replace`."""
    before: PoolConfig = tell(lambda: dispatcher.config.remote())
    strange = settings.keys() - EngineConfig.model_fields.keys()
    if strange:
        raise ConfigurationError(f"{min(strange)} cannot be changed while a pool runs.", param=min(strange))
    after = pool_config(**{**before.model_dump(exclude_unset=True), **settings})
    if after.engine == "auto" and not settings.keys() & {"model", "engine"}:
        after = with_engine(after, before.engine)  # the same model as before: what was decided of it holds
    if after.engine != "simulated":
        find_model(after)
    after = decide_engine(after)
    old, new = _tokenizer(before), _tokenizer(after)
    if new is None and after.engine == "simulated" and "model" in settings:
        raise ModelError(f"{after.model} has no tokenizer.json on this machine, and simulated workers look for none.")
    if old is not None and new is not None and old != new:  # otherwise the first new worker shows it
        raise ConfigurationError("The new model has another tokenizer than the pool's.", param="model")
    tell(lambda: dispatcher.replace.remote(after, grace_s))
    if not wait:
        return
    deadline_s = _deadline_s(before, grace_s, times=before.workers)
    while (answer := tell(lambda: dispatcher.replacement.remote()))[0]:
        if time.monotonic() > deadline_s:
            raise ConfigurationError("Replacing the workers takes longer than it should; it goes on.")
        time.sleep(LOOK_S)
    if answer[1]:
        raise ConfigurationError(f"The workers are as they were before: {answer[1]}")


def _tokenizer(config: PoolConfig) -> bytes | None:
    """None: this machine does not have it."""
    try:
        return (Path(config.model or builtin_model_path()) / "tokenizer.json").read_bytes()
    except OSError:
        return None


def _deadline_s(config: PoolConfig, grace_s: float | None, *, times: int = 1) -> float:
    """Without a grace it takes as long as the longest request that runs."""
    return math.inf if grace_s is None else time.monotonic() + times * (grace_s + config.start_timeout_s)


def _raise_failure(states: Any) -> None:
    for state in states:
        if state.failure is not None:
            raise state.failure


def tell(call: Callable[[], ray.ObjectRef[T]]) -> T:
    """Call the dispatcher, and again if it was lost: so what it is told may be told twice.

    :raises ExlpoolError: its own answer.
    :raises PoolClosed: it is gone.
    :raises NoHealthyWorker: it does not come back.
    """
    deadline_s = time.monotonic() + UNREACHABLE_AFTER_S
    while True:
        try:
            return ray.get(call(), timeout=UNREACHABLE_AFTER_S)
        except ActorDiedError:
            raise PoolClosed("The pool's dispatcher is gone; start the pool again.") from None
        except RayTaskError as error:
            if isinstance(error.cause, ExlpoolError):
                raise error.cause from None
            raise
        except (ActorUnavailableError, GetTimeoutError):
            if time.monotonic() > deadline_s:
                raise NoHealthyWorker("The pool's dispatcher does not answer.", retry_after_s=RETRY_S) from None
            time.sleep(RETRY_S)


def _wait_until(
    dispatcher: Any,
    settled: Callable[[tuple[WorkerState, ...]], bool],
    config: PoolConfig,
    grace_s: float | None,
    what: str,
) -> None:
    """Wait until the workers are as wished.

    :raises ConfigurationError: it takes longer than it may; it goes on all the same.
    """
    deadline_s = _deadline_s(config, grace_s)
    while not settled(tell(lambda: dispatcher.progress.remote(ANY_VERSION))[1]):
        if time.monotonic() > deadline_s:
            raise ConfigurationError(f"{what} takes longer than it should; it goes on.")
        time.sleep(LOOK_S)
