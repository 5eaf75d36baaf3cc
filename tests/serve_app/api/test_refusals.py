"""Everything that is wrong is a 4xx with OpenAI's error shape, and names the field."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.serve_app.api.conftest import MODEL, OTHER_MODEL
from tests.serve_app.api.recording import RecordingObserver

pytestmark = pytest.mark.ray

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 4}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": "Hi", "max_tokens": 4}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, which must have the one shape."""
    assert response.headers["content-type"].startswith("application/json")
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert isinstance(body["error"]["code"], str)
    return dict(body["error"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"2999": 1}}, "logit_bias"),
        ({"stop": ""}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"response_format": {"type": "json"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": []}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"range": 1}}, "chat_template_kwargs"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar"),
        ({"priority": "urgent"}, "priority"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"top_k": 10**50}, "top_k"),
        ({"min_tokens": 10**50}, "min_tokens"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_field_of_a_chat_is_named(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        if stream and "stream_options" in fields:
            continue
        response = http.post("/v1/chat/completions", json={**CHAT, **fields, "stream": stream})
        assert response.status_code == 400, response.text
        error = error_of(response)
        assert error["param"] == param, error
        assert error["type"] == "invalid_request_error"
        assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2999]}, "prompt"),
        ({"prompt": [2**40]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 100}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
    ],
)
def test_a_wrong_field_of_a_completion_is_named(http: httpx.Client, fields: dict[str, Any], param: str) -> None:
    response = http.post("/v1/completions", json={**COMPLETION, **fields})
    assert response.status_code == 400, response.text
    assert str(error_of(response)["param"]).startswith(param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_a", 0.2),
        ("typical_p", 0.9),
        ("tfs", 0.9),
        ("dry_multiplier", 0.8),
        ("xtc_probability", 0.5),
        ("mirostat_mode", 2),
        ("max_temp", 2.0),
        ("smoothing_factor", 0.2),
        ("temperature_last", True),
        ("banned_strings", ["fox"]),
        ("token_healing", True),
        ("repetition_decay", 5),
        ("dry_sequence_breakers", ["."]),
    ],
)
def test_what_the_engine_cannot_honour_is_refused_by_name(http: httpx.Client, field: str, value: Any) -> None:
    error = error_of(http.post("/v1/chat/completions", json={**CHAT, field: value}))
    assert (error["code"], error["param"]) == ("unsupported_parameter", field)
    assert field in error["message"]


@pytest.mark.parametrize(("field", "value"), [("typical_p", 1.0), ("tfs", 1.0), ("top_k", -1), ("mirostat_mode", 0)])
def test_other_servers_words_for_off_are_understood(http: httpx.Client, field: str, value: Any) -> None:
    assert http.post("/v1/chat/completions", json={**CHAT, field: value}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_too_long_has_openais_code(client: openai.OpenAI, stream: bool) -> None:
    cases: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "word " * 6000}]},
        {"messages": MESSAGES, "max_tokens": 5000},
        {"messages": MESSAGES, "max_completion_tokens": 10**30},
    ]
    params = ["messages", "max_tokens", "max_completion_tokens"]
    for case, param in zip(cases, params, strict=True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, stream=stream, **case)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == param


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_models_are_listed_and_found(client: openai.OpenAI, http: httpx.Client) -> None:
    first, second = list(client.models.list()), list(client.models.list())
    assert [model.id for model in first] == [MODEL, OTHER_MODEL]
    assert [model.created for model in first] == [model.created for model in second]
    assert client.models.retrieve(OTHER_MODEL).id == OTHER_MODEL
    assert http.get("/v1/models/team%2Fother").json()["id"] == OTHER_MODEL
    assert http.get("/v1/models/").json()["object"] == "list"
    assert http.get("/models").json()["object"] == "list"
    assert http.post("/chat/completions/", json=CHAT).json()["object"] == "chat.completion"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"model": "\xc3\x28"}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}], "prompt": "\\ud800", "tokens": 1}',
        b'{"model": "tiny", "prompt": "a", "messages": [], "temperature": NaN, "tokens": NaN}',
        b'{"model": "tiny", "prompt": "a", "messages": [], "temperature": 1e999, "tokens": 1e999}',
        b'{"model": "tiny", "prompt": "a", "messages": [], "tokens": ' + b"9" * 6000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_broken_bodies_are_refused(http: httpx.Client, path: str, body: bytes) -> None:
    response = http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    error_of(response)


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/x"])
def test_what_is_not_sent_as_json_is_not_taken_for_it(http: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = http.post("/v1/chat/completions", content=json.dumps(CHAT), headers=headers)
    assert response.status_code == 415
    error_of(response)
    fine = http.post(
        "/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": "Application/JSON; charset=utf-8"}
    )
    assert fine.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/nothing", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/", 404),
        ("PUT", "/health", 405),
        ("POST", "//", 404),
    ],
)
def test_unknown_paths_and_methods(http: httpx.Client, method: str, path: str, status: int) -> None:
    response = http.request(method, path)
    assert response.status_code == status
    error_of(response)


def test_unknown_fields_are_ignored(http: httpx.Client) -> None:
    extra = {"metadata": {"a": "b"}, "store": True, "service_tier": "auto", "user": "me", "never_heard_of": [1]}
    assert http.post("/v1/chat/completions", json={**CHAT, **extra}).status_code == 200


def test_a_model_without_room_for_the_deadline_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.with_options(max_retries=0).chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a story about a fox."}],
            max_tokens=3000,
            extra_body={"timeout_s": 0.05, "ignore_eos": True},
        )
    assert caught.value.status_code == 504
    assert caught.value.code == "deadline_exceeded"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_health_and_version(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok", "models": {MODEL: True, OTHER_MODEL: True}}
    assert http.get("/ready").json()["status"] == "ready"
    assert http.get("/version").json()["version"]
    assert http.get("/docs").status_code == 200


def test_the_observer_hears_of_every_request(http: httpx.Client, observer: RecordingObserver) -> None:
    starts, records = len(observer.starts), len(observer.records)
    http.post("/v1/chat/completions", json=CHAT)
    http.post("/v1/chat/completions", json={**CHAT, "temperature": 9})
    http.post("/v1/completions", json={**COMPLETION, "max_tokens": 5000})
    assert observer.starts[starts:] == [MODEL, MODEL]
    made, invalid, too_long = observer.records[records:]
    assert (made.outcome, made.status, made.endpoint, made.model) == ("ok", 200, "chat", MODEL)
    assert made.prompt_tokens > 0
    assert made.completion_tokens > 0
    assert made.queue_s is not None
    assert (invalid.outcome, invalid.status, invalid.model) == ("invalid_request", 400, "")
    assert (too_long.outcome, too_long.endpoint) == ("context_length_exceeded", "completions")
