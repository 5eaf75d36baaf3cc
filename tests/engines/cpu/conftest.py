from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from tests.engines.cpu.harness import load_reference


@pytest.fixture(scope="session")
def loaded_engine() -> Iterator[CpuEngine]:
    """32 slots, 48 pages, chunks of 256 tokens."""
    engine = CpuEngine(EngineConfig(engine="cpu", cache_tokens=48 * 256, chunk_tokens=256, max_batch_size=32))
    engine.load(lambda _: None)
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded_engine: CpuEngine) -> CpuEngine:
    """The session's engine without jobs and with an empty cache."""
    loaded_engine.reset()
    return loaded_engine


@pytest.fixture(scope="session")
def reference() -> Any:
    """The built-in model, as transformers loads it."""
    torch.set_num_threads(1)
    return load_reference(builtin_model_path())
