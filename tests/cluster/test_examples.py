"""The file of prompts that `make run` shows first: the built-in model tells every one of them to the end."""

from __future__ import annotations

from pathlib import Path

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.cpu import CpuEngine
from actors.request.prompt import PromptEncoder
from actors.results import FinishReason
from cluster.cli.rows import read_rows
from cluster.cli.sources import opened_source
from tests.engines.cpu.harness import job, run

PROMPTS = Path(__file__).parents[2] / "cluster" / "examples" / "prompts.txt"


def test_every_prompt_is_told_to_the_end() -> None:
    encoder = PromptEncoder.load(builtin_model_path())
    with opened_source(PROMPTS) as (file, name):
        rows = list(read_rows(file, name, jsonl=None, chat=False))
    assert len(rows) == 16
    engine = CpuEngine(EngineConfig(engine="cpu", cache_tokens=16 * 512))
    engine.load(lambda _: None)
    outcomes = run(engine, *(job(i, encoder.encode(row.prompt), 256) for i, row in enumerate(rows)))
    engine.close()
    for i, row in enumerate(rows):
        assert outcomes[i].end.reason is FinishReason.STOP, row.shown
        assert outcomes[i].text.endswith("The end."), row.shown
