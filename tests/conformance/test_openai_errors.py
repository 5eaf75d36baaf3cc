"""What the official client raises, retries and gives up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import openai
import pytest

from tests.conformance.asking import SUM, SUM_ANSWER
from tests.conformance.server import MODEL, NARROW, Server

pytestmark = pytest.mark.ray

GONE_WITHIN_S = 1.0


def test_a_wrong_key(server: Server) -> None:
    for key in ("wrong", server.key + "x"):
        with (
            openai.OpenAI(base_url=server.api, api_key=key) as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        assert caught.value.request_id


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.5}, "temperature"),
        ({"n": 0}, "n"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 1}}}}, None),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_bad_parameter(client: openai.OpenAI, fields: Any, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=SUM, **fields)
    assert caught.value.status_code == 400
    assert caught.value.code == "invalid_request"
    assert caught.value.type == "invalid_request_error"
    assert (caught.value.param or "").startswith(param or "response_format")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="word " * 6000, stream=stream)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-5", messages=SUM)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_the_rate_of_a_key(server: Server) -> None:
    with openai.OpenAI(base_url=server.api, api_key=server.slow_key, max_retries=0) as client:
        assert client.chat.completions.create(model=MODEL, messages=SUM, temperature=0).choices
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=MODEL, messages=SUM)
    assert caught.value.code == "rate_limit_exceeded"
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 60


async def test_a_full_queue_is_tried_again_as_told(server: Server) -> None:
    """Ten at once where one runs and two may wait: all are served in the end, by what the client does of itself."""
    refusals: list[httpx.Response] = []

    async def watch(response: httpx.Response) -> None:
        if response.status_code == 429:
            refusals.append(response)

    http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [watch]})
    async with openai.AsyncOpenAI(base_url=server.api, api_key=server.key, max_retries=30, http_client=http) as client:
        calls = (client.completions.create(model=NARROW, prompt=[i + 5], max_tokens=5) for i in range(10))
        answers = await asyncio.gather(*calls)
    assert len({answer.id for answer in answers}) == 10
    assert refusals
    for refusal in refusals:
        assert 0 < int(refusal.headers["retry-after-ms"]) <= 1000 * int(refusal.headers["retry-after"])


async def test_a_full_queue_is_raised_without_retries(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=server.api, api_key=server.key, max_retries=0) as client:
        calls = (client.completions.create(model=NARROW, prompt=[i + 5], max_tokens=5) for i in range(10))
        results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    assert errors
    assert all(isinstance(error, openai.RateLimitError) and error.code == "server_overloaded" for error in errors)
    assert len(errors) <= 7


def pool_gauge(http: httpx.Client, model: str, what: str) -> float:
    """A number of the pool, from the server's metrics."""
    for line in http.get("/metrics").text.splitlines():
        if line.startswith("exlpool_pool{") and f'model="{model}"' in line and f'what="{what}"' in line:
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"/metrics does not tell {what} of {model}")


@pytest.mark.parametrize("stream", [False, True])
def test_a_timeout_ends_the_job(server: Server, http: httpx.Client, stream: bool) -> None:
    with openai.OpenAI(base_url=server.api, api_key=server.key, max_retries=0) as client:
        if stream:
            events = client.completions.create(model=NARROW, prompt=[9], max_tokens=4000, stream=True)
            next(iter(events))
            assert pool_gauge(http, NARROW, "running_requests") == 1
            events.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.completions.create(model=NARROW, prompt=[9], max_tokens=4000, timeout=0.7)
    left_s = time.monotonic()
    while pool_gauge(http, NARROW, "running_requests"):
        assert time.monotonic() - left_s < GONE_WITHIN_S, "the job still runs"
    assert pool_gauge(http, NARROW, "free_pages") == pool_gauge(http, NARROW, "total_pages")


async def test_two_hundred_parallel_calls(server: Server) -> None:
    """Of the async client, with the retries that it has by default and its own limit on connections."""
    async with openai.AsyncOpenAI(base_url=server.api, api_key=server.key, timeout=120.0) as client:

        async def ask(number: int) -> str:
            text = f"What is {number % 10}+{number % 7}?"
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=12, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        answers = await asyncio.gather(*(ask(number) for number in range(200)))
    assert len(answers) == 200
    assert all(answers)
    assert answers[72] == SUM_ANSWER.replace("2 + 3 = 5", "2 + 2 = 4")
