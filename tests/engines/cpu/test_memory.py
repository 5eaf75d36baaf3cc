"""What running jobs take of memory: what was counted when the engine was loaded, however much they share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.engines.cpu import loading as cpu_loading
from actors.engines.cpu.cache import LayerShape, RunningRows, row_tokens
from tests.engines.cpu.harness import Runner, filler, job, reference_tokens

MIB = 2**20


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return kilobytes * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel of Linux tells")
def test_jobs_that_share_a_prefix_take_no_more_than_was_counted(
    monkeypatch: pytest.MonkeyPatch, reference: Any
) -> None:
    """32 jobs whose rows take 200 MiB, and room for 64: some of them wait until others are through."""
    monkeypatch.setattr(cpu_loading, "available_bytes", lambda: 110 * MIB)
    engine = CpuEngine(EngineConfig(engine="cpu", cache_tokens=10240, chunk_tokens=512, max_batch_size=32))
    engine.load(lambda _: None)
    assert engine._loaded is not None
    room_tokens = engine._loaded.rows_room_tokens
    assert room_tokens * 3072 < 64 * MIB
    runner = Runner(engine)
    runner.submit(job(100, filler(700, 9), 4))
    runner.finish()
    before = most = resident_bytes()
    most_jobs = 0
    runner.submit(*(job(i, (*filler(1300), i + 300), 8, ignore_eos=True) for i in range(32)))
    while engine.has_work():
        runner.step()
        most = max(most, resident_bytes())
        most_jobs = max(most_jobs, engine.capacity().active_jobs)
    after = resident_bytes()
    assert most_jobs == room_tokens // row_tokens(1309)
    assert most - before <= 90 * MIB
    assert after - before <= 30 * MIB, "what rows took was not given back"
    for i in (0, 13, 31):
        expected = reference_tokens(reference, (*filler(1300), i + 300), 8, eos_token_id=None, min_new_tokens=8)
        assert runner.outcomes[i].token_ids == expected
    engine.close()


def test_rows_have_room_for_what_they_may_grow_to() -> None:
    shapes = [LayerShape(heads=1, key_dim=8, value_dim=4)]
    rows = RunningRows(shapes, max_rows=8, room_tokens=row_tokens(1000) + row_tokens(10))
    assert rows.has_room(1000)
    long = rows.open(100, 1000)
    assert not rows.has_room(257)
    assert rows.has_room(256)
    short = rows.open(10, 20)
    assert not rows.has_room(1)
    rows.start_decoding(long)
    for length in range(100, 1000):
        long.length = length
        rows.make_room(long)
    rows.close(short)
    assert not rows.has_room(257)
    rows.close(long)
    assert rows.has_room(1000)
