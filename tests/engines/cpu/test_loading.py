"""Loading the CPU engine: what it tells, how much it reserves, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.engines.cpu import loading as cpu_loading
from actors.engines.cpu.cache import SPACING_TOKENS
from actors.engines.cpu.loading import SUPPORTED_PARAMETERS
from actors.errors import ModelError
from actors.messages import LoadProgress, WorkerLimits
from actors.paging.hashes import PAGE_TOKENS
from tests.engines.model_files import HALF, WORDS, write_model


def load(config: EngineConfig, seen: list[LoadProgress] | None = None) -> WorkerLimits:
    engine = CpuEngine(config)
    limits = engine.load(([] if seen is None else seen).append)
    engine.close()
    return limits


def test_loading_tells_its_stages_and_the_limits() -> None:
    seen: list[LoadProgress] = []
    limits = load(EngineConfig(engine="cpu", cache_tokens=2048, max_batch_size=7), seen)
    assert [(one.stage, one.done, one.total) for one in seen] == [
        ("weights", 0, 3),
        ("weights", 1, 3),
        ("tokenizer", 2, 3),
        ("cache", 3, 3),
        ("warm-up", 0, 1),
        ("warm-up", 1, 1),
    ]
    assert (limits.engine, limits.context_tokens, limits.total_pages, limits.max_batch_size) == ("cpu", 4096, 8, 7)
    assert (limits.vocab_size, limits.eos_token_ids) == (2048, (2,))
    assert limits.supported_parameters == SUPPORTED_PARAMETERS


def test_the_context_is_the_models_unless_a_shorter_one_is_asked_for() -> None:
    for asked, expected in [(None, 4096), (1000, 1000), (10**6, 4096)]:
        assert load(EngineConfig(engine="cpu", cache_tokens=2048, context_tokens=asked)).context_tokens == expected


def test_the_default_cache_holds_a_full_batch_within_bounds() -> None:
    small = load(EngineConfig(engine="cpu", max_batch_size=2, context_tokens=1000))
    assert small.total_pages == 2 * 4
    large = load(EngineConfig(engine="cpu", max_batch_size=1024))
    token_bytes = 2 * 3 * 2 * 64 * 4  # keys and values of 3 layers with 2 heads of 64 in float32
    assert large.total_pages == cpu_loading.DEFAULT_CACHE_BYTES // (PAGE_TOKENS * token_bytes)


def test_a_cache_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"takes [\d,.]+ GiB .* set a smaller cache_tokens"):
        load(EngineConfig(engine="cpu", cache_tokens=2**40))
    monkeypatch.setattr(cpu_loading, "available_bytes", lambda: 2**20)
    with pytest.raises(ModelError, match=r"0\.0 GiB are free"):
        load(EngineConfig(engine="cpu", cache_tokens=4096))


def test_the_rows_of_running_jobs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    token_bytes = 2 * 3 * 2 * 64 * 4
    config = EngineConfig(engine="cpu", cache_tokens=16384, max_batch_size=32, context_tokens=4096)
    full_batch = 32 * (4096 + SPACING_TOKENS)
    for free, room in [(2**30, min(full_batch, 2**28 // token_bytes)), (2**33, full_batch)]:
        monkeypatch.setattr(cpu_loading, "available_bytes", lambda free=free: free)
        assert cpu_loading.load(config, lambda _: None).rows_room_tokens == room
    unshared = 64 * (2 * PAGE_TOKENS + SPACING_TOKENS)
    needed = (16384 + unshared + 2056) * token_bytes
    monkeypatch.setattr(cpu_loading, "available_bytes", lambda: needed)
    assert cpu_loading.load(config, lambda _: None).rows_room_tokens == unshared
    monkeypatch.setattr(cpu_loading, "available_bytes", lambda: needed - 1)
    with pytest.raises(ModelError, match="running jobs included"):
        load(config)


def test_memory_is_bounded_by_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = cpu_loading.available_bytes()
    assert 2**20 < machine < 2**60
    limit, unlimited = tmp_path / "limit", tmp_path / "unlimited"
    limit.write_text("1048576\n")
    unlimited.write_text("max\n")
    monkeypatch.setattr(cpu_loading, "_MEMORY_FILES", (unlimited, tmp_path / "none", limit))
    assert cpu_loading.available_bytes() == 2**20
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 400000\nactive_file 7\n")
    assert cpu_loading.available_bytes() == 2**20 - 500_000


def test_quantised_weights_are_said_to_need_a_gpu(tmp_path: Path) -> None:
    model = write_model(tmp_path / "exl2", x__q_weight=WORDS, y__weight=HALF)
    with pytest.raises(ModelError, match="EXL2 weights, which need a GPU"):
        load(EngineConfig(engine="cpu", model=model))


def test_who_hears_of_progress_can_abort() -> None:
    engine = CpuEngine(EngineConfig(engine="cpu"))

    def abort(_: LoadProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.load(abort)
    engine.close()
