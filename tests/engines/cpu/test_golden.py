"""The golden answers of the built-in model, all at once on the CPU engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.engines.cpu import CpuEngine
from actors.results import FinishReason
from tests.engines.cpu.harness import EOS, job, run

GOLDEN_FILE = Path(__file__).parents[2] / "builtin_model" / "golden.json"


def test_golden_answers_come_out_token_for_token(engine: CpuEngine) -> None:
    cases: list[dict[str, Any]] = json.loads(GOLDEN_FILE.read_text("utf-8"))["cases"]
    outcomes = run(engine, *(job(i, case["prompt_ids"], case["max_tokens"]) for i, case in enumerate(cases)))
    for i, case in enumerate(cases):
        assert outcomes[i].token_ids == [token for token in case["output_ids"] if token != EOS], case["name"]
        assert outcomes[i].text == case["output_text"]
        assert outcomes[i].end.reason is FinishReason(case["finish_reason"])
