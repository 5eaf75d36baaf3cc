"""exlpool: one pool of text generators out of many ExLlamaV2 models, on Ray.

The public names are loaded at first use, so that parts that need no Ray (the scheduler, the tokenizer) never load it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.config import EngineConfig, PoolConfig, load_config, pool_config
    from actors.dispatcher.statistics import PoolStatistics, WorkerState
    from actors.errors import (
        ConfigurationError,
        ContextLengthExceeded,
        DeadlineExceeded,
        EngineFailure,
        ExlpoolError,
        InvalidRequest,
        ModelError,
        NoHealthyWorker,
        Overloaded,
        PoolClosed,
        PoolNotFound,
        RequestCancelled,
        UnsupportedParameter,
        WorkerDied,
    )
    from actors.pool import Pool
    from actors.request.prompt import Prompt
    from actors.results import Delta, FinishReason, GenerationResult, Priority, Timing, TokenLogprobs, Usage
    from actors.sampling import SamplingParams

_HOME = {
    "EngineConfig": "actors.config",
    "PoolConfig": "actors.config",
    "load_config": "actors.config",
    "pool_config": "actors.config",
    "ConfigurationError": "actors.errors",
    "ContextLengthExceeded": "actors.errors",
    "DeadlineExceeded": "actors.errors",
    "EngineFailure": "actors.errors",
    "ExlpoolError": "actors.errors",
    "InvalidRequest": "actors.errors",
    "ModelError": "actors.errors",
    "NoHealthyWorker": "actors.errors",
    "Overloaded": "actors.errors",
    "PoolClosed": "actors.errors",
    "PoolNotFound": "actors.errors",
    "RequestCancelled": "actors.errors",
    "UnsupportedParameter": "actors.errors",
    "WorkerDied": "actors.errors",
    "Delta": "actors.results",
    "FinishReason": "actors.results",
    "GenerationResult": "actors.results",
    "Priority": "actors.results",
    "Timing": "actors.results",
    "TokenLogprobs": "actors.results",
    "Usage": "actors.results",
    "Pool": "actors.pool",
    "SamplingParams": "actors.sampling",
    "PoolStatistics": "actors.dispatcher.statistics",
    "WorkerState": "actors.dispatcher.statistics",
    "Prompt": "actors.request.prompt",
}

__all__ = [
    "ConfigurationError",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "Delta",
    "EngineConfig",
    "EngineFailure",
    "ExlpoolError",
    "FinishReason",
    "GenerationResult",
    "InvalidRequest",
    "ModelError",
    "NoHealthyWorker",
    "Overloaded",
    "Pool",
    "PoolClosed",
    "PoolConfig",
    "PoolNotFound",
    "PoolStatistics",
    "Priority",
    "Prompt",
    "RequestCancelled",
    "SamplingParams",
    "Timing",
    "TokenLogprobs",
    "UnsupportedParameter",
    "Usage",
    "WorkerDied",
    "WorkerState",
    "load_config",
    "pool_config",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
