"""What is looked at before a request may wait, and before a worker counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.scheduling.intake import MOST, fault, limits_fault, size_message
from tests.scheduling.pool import LIMITS, admission, pages


def test_a_proper_request_has_no_fault() -> None:
    assert fault(admission("r", 513, 1, page_hashes=pages("p", "q"), timeout_s=float("inf"))) is None
    assert fault(admission("r", MOST, MOST)) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens must be at least 1, not 0."),
        ({"max_new_tokens": -7}, "max_new_tokens must be at least 1, not -7."),
        ({"attempt": 0}, "attempt must be at least 1, not 0."),
        ({"prompt_tokens": MOST + 1}, "prompt_tokens is beyond reason."),
        ({"timeout_s": -0.5}, "timeout_s must be above 0, not -0.5."),
        ({"prompt_tokens": 512, "page_hashes": pages("p", "q")}, "2 page hashes are too many for 512 prompt tokens."),
        ({"prompt_tokens": 513, "page_hashes": pages("p", "p")}, "A page hash occurs twice"),
    ],
)
def test_faults_are_told_in_a_sentence(fields: dict[str, Any], words: str) -> None:
    assert str(fault(admission("r", **fields))).startswith(words)


def test_limits_of_a_worker_are_looked_at() -> None:
    assert limits_fault(LIMITS) is None
    assert limits_fault(replace(LIMITS, total_pages=0)) == "worker with an impossible total_pages"
    assert limits_fault(replace(LIMITS, reserve_tokens=-1)) == "worker with an impossible reserve_tokens"


def test_who_is_too_large_is_told_how_large_it_may_be() -> None:
    message = size_message(admission("r", 9000, 1000), [LIMITS, replace(LIMITS, total_pages=20, context_tokens=2048)])
    assert "9000 prompt tokens and up to 1000 new ones need 40 pages" in message
    assert "the largest worker has 20 pages and a context of 4096 tokens" in message
