"""Chats through the official client, unmodified, against the built-in model."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.serve_app.api.conftest import MODEL

pytestmark = pytest.mark.ray

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 2+3?"}]
STORY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me a story about a fox."}]


def test_an_answer_is_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    assert answer.system_fingerprint
    assert [choice.index for choice in answer.choices] == [0]
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == "2 + 3 = 5"
    assert choice.message.tool_calls is None
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details is not None


def test_a_stream_is_the_answer_in_chunks(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stream=True))
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk"
    assert all(len(chunk.choices) == 1 for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    roles = [chunk.choices[0].delta.role for chunk in chunks]
    assert roles[0] == "assistant"
    assert not any(roles[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "2 + 3 = 5"
    ends = [chunk.choices[0].finish_reason for chunk in chunks]
    assert ends[-1] == "stop"
    assert not any(ends[:-1])
    assert chunks[-1].choices[0].delta.content is None


def test_the_usage_chunk_comes_last_and_without_choices(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_raw_stream_ends_with_done(http: httpx.Client) -> None:
    body = {"model": MODEL, "messages": QUESTION, "temperature": 0, "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        text = "".join(response.iter_text())
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert float(response.headers["x-queue-time-ms"]) >= 0.0
    events = [event for event in text.split("\n\n") if event]
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: ")) for event in events[:-1])


def test_a_whole_answer_tells_where_the_time_went(http: httpx.Client) -> None:
    headers = http.post("/v1/chat/completions", json={"model": MODEL, "messages": QUESTION}).headers
    queue_ms, prefill_ms, engine_ms = (
        float(headers[f"x-{part}-time-ms"]) for part in ("queue", "prefill", "inference")
    )
    assert queue_ms >= 0.0
    assert 0.0 < prefill_ms <= engine_ms


@pytest.mark.parametrize("n", [1, 3])
def test_the_stream_helper_accumulates(client: openai.OpenAI, n: int) -> None:
    with client.chat.completions.stream(model=MODEL, messages=STORY, n=n, seed=5, stop=".") as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.index for choice in final.choices] == list(range(n))
    assert [choice.message.role for choice in final.choices] == ["assistant"] * n
    assert all(choice.message.content for choice in final.choices)


def test_several_choices_differ_and_count_the_prompt_once(client: openai.OpenAI) -> None:
    one = client.chat.completions.create(model=MODEL, messages=STORY, seed=7, max_tokens=40)
    three = client.chat.completions.create(model=MODEL, messages=STORY, seed=7, max_tokens=40, n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert three.choices[0].message.content == one.choices[0].message.content
    assert len({choice.message.content for choice in three.choices}) > 1
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens > one.usage.completion_tokens


def test_roles_of_all_choices_come_first_and_in_order(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=STORY, n=3, seed=1, max_tokens=20, stream=True))
    assert [chunk.choices[0].index for chunk in chunks[:3]] == [0, 1, 2]
    assert all(chunk.choices[0].delta.role == "assistant" for chunk in chunks[:3])
    ends = [chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason]
    assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize("stop", ["3", ["x", "3"]])
def test_stop_strings_end_the_text_and_are_not_part_of_it(client: openai.OpenAI, stop: str | list[str]) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stop=stop)
    assert answer.choices[0].message.content == "2 + "
    assert answer.choices[0].finish_reason == "stop"
    deltas = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in deltas) == "2 + "


def test_every_field_may_be_null(http: httpx.Client) -> None:
    from serve_app.api.schemas.chat import ChatCompletionRequest

    fields: dict[str, Any] = dict.fromkeys(set(ChatCompletionRequest.model_fields) - {"model", "messages"})
    response = http.post("/v1/chat/completions", json={**fields, "model": MODEL, "messages": QUESTION, "max_tokens": 5})
    assert response.status_code == 200, response.text


def test_a_seed_repeats_the_text(client: openai.OpenAI) -> None:
    texts = [
        client.chat.completions.create(model=MODEL, messages=STORY, seed=seed, max_tokens=30).choices[0].message.content
        for seed in (3, 3, 4, -3)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_length_ends_a_cut_answer_and_the_newer_limit_wins(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=STORY, temperature=0, max_tokens=50, max_completion_tokens=4
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_come_with_every_token(client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"temperature": 0, "logprobs": True, "top_logprobs": 2, "stream": stream}
    answer: Any = client.chat.completions.create(model=MODEL, messages=QUESTION, **options)
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert "".join(entry.token for entry in entries) == "2 + 3 = 5"
    assert bytes(value for entry in entries for value in entry.bytes).decode() == "2 + 3 = 5"
    for entry in entries:
        assert entry.logprob <= 0.0
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob


def test_the_prompt_of_a_repeated_question_is_cached(client: openai.OpenAI) -> None:
    long_question: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 2+3? " * 120}]
    cached = []
    for _ in range(3):
        usage = client.chat.completions.create(model=MODEL, messages=long_question, max_tokens=2).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens)
    assert cached[-1] is not None
    assert cached[-1] >= 256


def test_json_object_makes_json(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Reply in JSON with name and age"}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=60,
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


class Person(BaseModel):
    name: str
    age: int


def test_parse_gives_the_model_back(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": "Max is 5 years old. Reply in JSON with name and age."}],
        response_format=Person,
        temperature=0,
        max_tokens=60,
    )
    assert completion.choices[0].message.parsed == Person(name="Max", age=5)


def test_a_regular_expression_binds(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=20, extra_body={"guided_regex": "(yes|no), [0-9]{3}"}
    )
    text = answer.choices[0].message.content or ""
    assert text[:-5] in ("yes", "no")
    assert text[-3:].isdigit()


def test_a_final_message_is_continued(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[*QUESTION, {"role": "assistant", "content": "2 + 3 ="}],
        temperature=0,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    assert answer.choices[0].message.content == " 5"


def test_extended_samplers_reach_the_engine(client: openai.OpenAI) -> None:
    options = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0, "min_tokens": 12, "ignore_eos": True}
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=1.5, max_tokens=12, extra_body=options
    )
    assert (answer.choices[0].message.content or "").startswith("2 + 3 = 5")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_a_bias_bans_a_token(client: openai.OpenAI, http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"prompt": "2", "add_special_tokens": False}).json()["tokens"]
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=8, logit_bias={str(tokens[0]): -100}
    )
    assert not (answer.choices[0].message.content or "").startswith("2")


async def test_two_hundred_parallel_calls_all_answer(server: str) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none", timeout=120.0, max_retries=8) as client:

        async def ask(number: int) -> str | None:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"What is {number % 10}+{number % 7}?"}],
                temperature=0,
                max_tokens=12,
            )
            return answer.choices[0].message.content

        answers = await asyncio.gather(*(ask(number) for number in range(200)))
    assert len(answers) == 200
    assert all(answers)
    assert answers[3] == "3 + 3 = 6"
