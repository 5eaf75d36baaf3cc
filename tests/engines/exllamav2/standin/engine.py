"""The engine over the stand-in model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from exllamav2 import ExLlamaV2Cache

from actors.config import EngineConfig
from actors.engines.base import ProgressCallback
from actors.engines.exllamav2.engine import ExLlamaV2Engine
from actors.engines.exllamav2.loading import LoadedModel, assemble, make_tokenizer
from actors.engines.exllamav2.weights import Weights
from actors.messages import LoadProgress
from tests.engines.exllamav2.standin.model import StandInModel
from tests.engines.exllamav2.standin.tokenizer import write_model_dir


def make_loaded(
    config: EngineConfig,
    progress: ProgressCallback,
    *,
    paged: bool = True,
    draft: bool = False,
    made_by: type[StandInModel] = StandInModel,
    draft_made_by: type[StandInModel] = StandInModel,
    **model: Any,
) -> LoadedModel:
    """What `load_model` does, over the stand-in; `config.model` is a directory of `write_model_dir`."""
    assert config.model is not None
    stand_in = made_by(config.model, **model)
    cache_tokens = config.cache_tokens or 4096
    progress(LoadProgress("weights", 1, 1))
    context_tokens = min(config.context_tokens or 10**9, stand_in.config.max_seq_len)
    weights = Weights(stand_in.config, stand_in, _cache(stand_in, cache_tokens), paged, context_tokens)
    if draft:
        weights.draft_model = draft_made_by(config.model, **model)
        weights.draft_cache = _cache(weights.draft_model, cache_tokens)
    with torch.inference_mode():
        return assemble(config, config.model, weights, make_tokenizer(stand_in.config))


def _cache(model: StandInModel, tokens: int) -> ExLlamaV2Cache:
    return ExLlamaV2Cache(model, max_seq_len=tokens)


def make_engine(
    directory: Path,
    *,
    paged: bool = True,
    draft: bool = False,
    eos_token_ids: tuple[int, ...] = (2,),
    model: dict[str, Any] | None = None,
    **config: Any,
) -> ExLlamaV2Engine:
    """A loaded engine. `model` goes to `make_loaded`, `config` to `EngineConfig`."""
    write_model_dir(directory, vocab_size=512, eos_token_ids=eos_token_ids)
    settings = EngineConfig(model=directory, **config)

    def loader(engine_config: EngineConfig, progress: ProgressCallback) -> LoadedModel:
        return make_loaded(engine_config, progress, paged=paged, draft=draft, **(model or {}))

    engine = ExLlamaV2Engine(settings, loader)
    engine.load(lambda progress: None)
    return engine
