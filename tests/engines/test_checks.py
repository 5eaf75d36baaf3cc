"""What every engine refuses by itself, even from an owner that did not check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.engines.base import EngineJob
from actors.engines.checks import check_job
from actors.engines.cpu.loading import SUPPORTED_PARAMETERS
from actors.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from actors.messages import WorkerLimits
from tests.engines.cpu.harness import job

LIMITS = WorkerLimits(
    engine="cpu",
    model="tiny",
    context_tokens=1000,
    total_pages=8,
    max_batch_size=4,
    vocab_size=100,
    eos_token_ids=(2,),
    supported_parameters=SUPPORTED_PARAMETERS,
)


@pytest.mark.parametrize(
    ("one", "error", "param"),
    [
        (job(1, ()), InvalidRequest, "prompt"),
        (job(1, (5,), 0), InvalidRequest, "max_new_tokens"),
        (job(1, (5,), typical_p=0.5), UnsupportedParameter, "typical_p"),
        (job(1, (5,), 1000), ContextLengthExceeded, "max_new_tokens"),
        (job(1, (5,) * 1000, 1), ContextLengthExceeded, "prompt"),
    ],
)
def test_a_job_that_would_harm_others_is_refused(one: EngineJob, error: type[InvalidRequest], param: str) -> None:
    with pytest.raises(error) as caught:
        check_job(one, LIMITS)
    assert (type(caught.value), caught.value.param) == (error, param)


def test_a_job_must_fit_the_cache_where_that_is_smaller_than_the_context() -> None:
    check_job(job(1, (5,) * 500, 500), LIMITS)
    with pytest.raises(ContextLengthExceeded, match="512"):
        check_job(job(1, (5,) * 500, 13), replace(LIMITS, total_pages=2))
    check_job(job(1, (5,) * 500, 12), replace(LIMITS, total_pages=2))


def test_what_an_engine_reserves_is_no_room() -> None:
    check_job(job(1, (5,) * 500, 490), replace(LIMITS, reserve_tokens=10))
    with pytest.raises(ContextLengthExceeded, match="990"):
        check_job(job(1, (5,) * 500, 491), replace(LIMITS, reserve_tokens=10))


@pytest.mark.parametrize("names", [0, 1, 3])
def test_the_names_of_the_prompts_pages_must_come_along(names: int) -> None:
    one = job(1, (5,) * 600)
    check_job(one, LIMITS)
    with pytest.raises(ValueError, match="2 pages"):
        check_job(replace(one, page_hashes=(b"name",) * names), LIMITS)
