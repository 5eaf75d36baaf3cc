"""Errors as clients see them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import errors
from actors.errors import ExlpoolError
from serve_app.errors import error_json, error_response, error_type, retry_headers

ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ExlpoolError)]


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_pool_has_a_status_and_the_shape(kind: type[ExlpoolError]) -> None:
    response = error_response(kind("It went wrong.", param="field"))
    assert response.status_code == kind.status
    body = json.loads(bytes(response.body))["error"]
    assert body == {"message": "It went wrong.", "type": error_type(kind.status), "param": "field", "code": kind.code}


@given(st.text(), st.none() | st.text())
def test_any_message_can_be_told(message: str, param: str | None) -> None:
    body = error_response(errors.InvalidRequest(message + "\ud800", param=param)).body
    assert json.loads(bytes(body))["error"]["message"] == message + "\ud800"


@given(st.floats(min_value=0.0, max_value=1e6))
def test_a_client_is_never_sent_back_too_early_nor_at_once(seconds: float) -> None:
    headers = retry_headers(errors.Overloaded("full", retry_after_s=seconds))
    assert int(headers["retry-after-ms"]) >= max(seconds * 1000.0 - 1e-6, 1)
    assert int(headers["retry-after"]) * 1000 >= int(headers["retry-after-ms"])
    assert "x-should-retry" not in headers


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest("x"),
        errors.ContextLengthExceeded("x"),
        errors.DeadlineExceeded("x"),
        errors.WorkerDied("x"),
        errors.EngineFailure("x"),
        errors.ModelError("x"),
    ],
)
def test_a_retry_that_cannot_help_is_forbidden(error: ExlpoolError) -> None:
    assert retry_headers(error) == {"x-should-retry": "false"}


def test_where_nobody_knows_the_client_decides() -> None:
    assert retry_headers(errors.Overloaded("x")) == {}


@pytest.mark.parametrize("error", [errors.NoHealthyWorker("x"), errors.PoolClosed("x")])
def test_a_pool_that_is_not_there_comes_back(error: ExlpoolError) -> None:
    assert retry_headers(error) == {"retry-after": "2", "retry-after-ms": "2000"}


def test_the_json_is_one_line_of_ascii() -> None:
    text = error_json(errors.InvalidRequest("a\nb ü"))
    assert text.isascii()
    assert "\n" not in text
