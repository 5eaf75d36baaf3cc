"""What a worker sees of its model before it loads it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.registry import resolve_engine_name
from actors.errors import ExlpoolError, ModelError
from actors.messages import WorkerLimits
from actors.model_files.fingerprint import ModelCopy, fingerprint_of
from actors.model_files.prompt_files import PROMPT_FILES, TOKENIZER_FILES, read_files
from actors.ray_session import own_node_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLook:
    """`copy` is None for an engine that has no model. `prompt_files` are kept as they were then, since fronts that come
    later need those of the model that was loaded; None: they are too large to be kept, or nobody looked."""

    copy: ModelCopy | None = None
    prompt_files: dict[str, bytes] | None = None


def look_at_model(config: EngineConfig) -> ModelLook:
    """What this node has. Reads files, and blocks.

    :raises ModelError: the model is unusable, or what its engine needs is missing on this node.
    """
    if resolve_engine_name(config) == "simulated":
        return ModelLook()
    path = config.model or builtin_model_path()
    copy = ModelCopy(path=str(path), node=own_node_name(), fingerprint=fingerprint_of(config))
    files = None
    with suppress(ModelError):  # whoever asks for them is told
        files = read_files(path)
    return ModelLook(copy=copy, prompt_files=files)


def with_digests(limits: WorkerLimits, copy: ModelCopy) -> WorkerLimits:
    """The limits of a worker that has loaded this copy."""
    fingerprint = copy.fingerprint
    return replace(limits, tokenizer=fingerprint.part(TOKENIZER_FILES), prompt_files=fingerprint.part(PROMPT_FILES))


def here(failure: ExlpoolError) -> ExlpoolError:
    """Why a worker cannot be loaded, with the name of its node, for people who look from another one."""
    return type(failure)(f"On node {own_node_name()}: {failure.message}")
