"""The official client's chats: every item of its contract, sync."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.conformance.asking import MAX, STORY, SUM, SUM_ANSWER, Person
from tests.conformance.server import MODEL

pytestmark = pytest.mark.ray


def test_an_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=SUM, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer._request_id
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", SUM_ANSWER)
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens > 0
    assert usage.prompt_tokens_details is not None


def test_a_stream(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=SUM, temperature=0, stream=True))
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SUM_ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_with_usage(client: openai.OpenAI, n: int) -> None:
    options: Any = {"model": MODEL, "messages": SUM, "temperature": 0, "n": n}
    whole = client.chat.completions.create(**options)
    chunks: Any = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("n", [1, 3])
def test_the_stream_helper(client: openai.OpenAI, n: int) -> None:
    with client.chat.completions.stream(model=MODEL, messages=STORY, n=n, seed=5, stop=".") as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert [choice.index for choice in final.choices] == list(range(n))
    assert [choice.message.role for choice in final.choices] == ["assistant"] * n
    assert all(choice.message.content for choice in final.choices)


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=STORY, seed=7, max_tokens=40, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"), [("3", "2 + "), (["x", " ="], "2 + 3"), ([], SUM_ANSWER), (None, SUM_ANSWER)]
)
def test_stop(client: openai.OpenAI, stop: Any, text: str, stream: bool) -> None:
    answer: Any = client.chat.completions.create(model=MODEL, messages=SUM, temperature=0, stop=stop, stream=stream)
    if stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in answer) == text
    else:
        assert answer.choices[0].message.content == text
        assert answer.choices[0].finish_reason == "stop"


def test_a_seed_repeats(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(model=MODEL, messages=STORY, seed=seed, max_tokens=30) for seed in (3, 3, 4)
    ]
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[0] == texts[1] != texts[2]
    assert len({answer.system_fingerprint for answer in answers}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.chat.completions.create(
        model=MODEL, messages=SUM, temperature=0, logprobs=True, top_logprobs=3, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    assert bytes(value for entry in entries for value in entry.bytes).decode() == SUM_ANSWER
    for entry in entries:
        assert entry.logprob <= 0.0
        assert entry.top_logprobs[0].token == entry.token
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (top.logprob for top in entry.top_logprobs), reverse=True
        )


def test_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MAX, temperature=0, max_tokens=60, response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content or "") == {"name": "Max", "age": 5}


def test_parse(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(
        model=MODEL, messages=MAX, temperature=0, max_tokens=60, response_format=Person
    )
    assert completion.choices[0].message.parsed == Person(name="Max", age=5)


def test_parse_of_what_was_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=MODEL, messages=MAX, temperature=0, max_tokens=3, response_format=Person)


def test_a_parsed_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=MAX, temperature=0, max_tokens=60, response_format=Person
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Max", age=5)


def test_sampler_fields_in_the_extra_body(client: openai.OpenAI) -> None:
    fields = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0, "min_tokens": 12, "ignore_eos": True}
    answer = client.chat.completions.create(
        model=MODEL, messages=SUM, temperature=1.9, max_tokens=12, extra_body={**fields, "unknown_field": [1]}
    )
    assert (answer.choices[0].message.content or "").startswith(SUM_ANSWER)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_ignored_and_renamed_fields(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "What is 2+3?"}]},
        ],
        temperature=0,
        max_tokens=500,
        max_completion_tokens=4,
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        user="somebody",
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer.choices[0].finish_reason == "length"
