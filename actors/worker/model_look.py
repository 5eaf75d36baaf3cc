"""What a worker sees of its model before it loads it."""

from __future__ import annotations

from dataclasses import replace

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.registry import resolve_engine_name
from actors.messages import WorkerLimits
from actors.model_files.fingerprint import ModelCopy, fingerprint_of
from actors.model_files.prompt_files import PROMPT_FILES, TOKENIZER_FILES
from actors.ray_session import own_node_name


def look_at_model(config: EngineConfig) -> ModelCopy | None:
    """This node's copy; None: the engine has no model. Reads files, and blocks.

    :raises ModelError: the model is unusable, or what its engine needs is missing on this node.
    """
    if resolve_engine_name(config) == "simulated":
        return None
    path = config.model or builtin_model_path()
    return ModelCopy(path=str(path), node=own_node_name(), fingerprint=fingerprint_of(config))


def with_digests(limits: WorkerLimits, copy: ModelCopy) -> WorkerLimits:
    """The limits of a worker that has loaded this copy."""
    fingerprint = copy.fingerprint
    return replace(limits, tokenizer=fingerprint.part(TOKENIZER_FILES), prompt_files=fingerprint.part(PROMPT_FILES))
