"""Errors cross processes unchanged, and each carries what a caller and an HTTP front need."""

from __future__ import annotations

import pickle

import pytest

from actors import errors
from actors.errors import ExlpoolError, InvalidRequest, Overloaded

TYPES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ExlpoolError)]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling(kind: type[ExlpoolError]) -> None:
    error = kind("What was wrong, and what to do.", retry_after_s=2.5, param="prompt")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.retry_after_s, copy.param) == (error.message, 2.5, "prompt")
    assert str(copy) == error.message


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_error_has_a_status_and_a_code(kind: type[ExlpoolError]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.code == kind.code.lower()
    assert kind.__doc__


def test_codes_are_unique() -> None:
    assert len({kind.code for kind in TYPES}) == len(TYPES)


def test_defaults_are_no_retry_and_no_field() -> None:
    assert (InvalidRequest("x").retry_after_s, InvalidRequest("x").param) == (None, None)
    assert Overloaded("later", retry_after_s=1.0).status == 429
    assert ExlpoolError.__new__(ExlpoolError).message == "internal_error"
