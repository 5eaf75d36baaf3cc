"""A prompt and options become a request that is checked, resolved and named, in one walk over its token ids."""

from __future__ import annotations

import pytest

from actors.builtin_model import builtin_model_path
from actors.errors import ContextLengthExceeded, InvalidRequest
from actors.messages import WorkerLimits
from actors.paging.hashes import page_hashes
from actors.request.options import request_options
from actors.request.prepare import prepare
from actors.request.prompt import PromptEncoder
from actors.sampling import PARAMETER_NAMES

LIMITS = WorkerLimits(
    engine="cpu",
    model="tiny",
    context_tokens=4096,
    total_pages=16,
    max_batch_size=4,
    vocab_size=2048,
    eos_token_ids=(2,),
    supported_parameters=PARAMETER_NAMES,
)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder.load(builtin_model_path())


def test_a_prepared_request_has_everything_resolved(encoder: PromptEncoder) -> None:
    options = request_options(seed=7)
    request = prepare(encoder, "Once upon a time,", options, (LIMITS,), 256)
    assert request.token_ids == encoder.encode("Once upon a time,")
    assert (request.max_new_tokens, request.seed, request.options) == (256, 7, options)


def test_requests_without_a_seed_differ_in_theirs_and_in_their_id(encoder: PromptEncoder) -> None:
    made = [prepare(encoder, [5], request_options(), (LIMITS,), 256) for _ in range(50)]
    assert len({request.seed for request in made}) == len({request.request_id for request in made}) == 50
    assert all(0 <= request.seed < 2**63 for request in made)


def test_what_does_not_fit_is_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(ContextLengthExceeded):
        prepare(encoder, [5] * 4096, request_options(), (LIMITS,), 256)
    with pytest.raises(ContextLengthExceeded):
        prepare(encoder, [5], request_options(max_new_tokens=4096), (LIMITS,), 256)


def test_a_prepared_request_knows_the_names_of_its_pages(encoder: PromptEncoder) -> None:
    for ids in ([5] * 256, [5] * 257, list(range(700))):
        request = prepare(encoder, ids, request_options(max_new_tokens=5), (LIMITS,), 256)
        assert request.page_hashes == page_hashes(ids)


@pytest.mark.parametrize("wrong", [-1, -(2**70), 2048, 2**63, 2**70])
def test_an_id_that_the_model_does_not_have_is_named(encoder: PromptEncoder, wrong: int) -> None:
    for place in (0, 300, 599):
        ids = [5] * 600
        ids[place] = wrong
        with pytest.raises(InvalidRequest, match=f"token id {wrong} is outside") as caught:
            prepare(encoder, ids, request_options(), (LIMITS,), 256)
        assert caught.value.param == "prompt"
