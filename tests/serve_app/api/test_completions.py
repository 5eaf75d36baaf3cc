"""Plain completions through the official client, and tokens."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.serve_app.api.conftest import MODEL

pytestmark = pytest.mark.ray

PROMPT = "Once upon a time,"
OTHER = "What is 2+3?"


def test_a_text_is_continued(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=20)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert "there was a" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20


def test_a_stream_is_the_text_in_chunks(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=20)
    chunks = list(
        client.completions.create(
            model=MODEL,
            prompt=PROMPT,
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_have_choices_in_their_order(client: openai.OpenAI, stream: bool) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "n": 2, "stream": stream}
    singles = [
        client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=12)
        for prompt in (PROMPT, OTHER)
    ]
    answer: Any = client.completions.create(model=MODEL, prompt=[PROMPT, OTHER], **options)
    texts = dict.fromkeys(range(4), "")
    for choice in [chunk.choices[0] for chunk in answer] if stream else answer.choices:
        texts[choice.index] += choice.text
    first, second = (single.choices[0].text for single in singles)
    assert texts == {0: first, 1: first, 2: second, 3: second}
    if not stream:
        usages = [single.usage for single in singles]
        assert answer.usage.prompt_tokens == sum(usage.prompt_tokens for usage in usages if usage)


def test_token_ids_are_prompts(client: openai.OpenAI, http: httpx.Client) -> None:
    ids = [http.post("/tokenize", json={"prompt": prompt}).json()["tokens"] for prompt in (PROMPT, OTHER)]
    texts = client.completions.create(model=MODEL, prompt=[PROMPT, OTHER], temperature=0, max_tokens=10)
    lists = client.completions.create(model=MODEL, prompt=ids, temperature=0, max_tokens=10)
    single = client.completions.create(model=MODEL, prompt=ids[1], temperature=0, max_tokens=10)
    assert [choice.text for choice in lists.choices] == [choice.text for choice in texts.choices]
    assert single.choices[0].text == texts.choices[1].text


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_begins_with_the_prompt(client: openai.OpenAI, http: httpx.Client, stream: bool) -> None:
    ids = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    for prompt in (PROMPT, ids):
        answer: Any = client.completions.create(
            model=MODEL, prompt=prompt, echo=True, temperature=0, max_tokens=5, stream=stream
        )
        text = "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text
        assert text.startswith(PROMPT)
        assert len(text) > len(PROMPT)


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_offsets_that_go_on(client: openai.OpenAI, count: int, stream: bool) -> None:
    answer: Any = client.completions.create(
        model=MODEL, prompt=PROMPT, temperature=0, max_tokens=12, logprobs=count, stream=stream
    )
    choices = [chunk.choices[0] for chunk in answer] if stream else answer.choices
    text = "".join(choice.text for choice in choices)
    pieces = [choice.logprobs for choice in choices if choice.logprobs]
    tokens = [token for piece in pieces for token in piece.tokens]
    offsets = [offset for piece in pieces for offset in piece.text_offset]
    assert "".join(tokens) == text
    assert [text[offset : offset + len(token)] for offset, token in zip(offsets, tokens, strict=True)] == tokens
    for piece in pieces:
        for token, logprob, top in zip(piece.tokens, piece.token_logprobs, piece.top_logprobs, strict=True):
            assert top[token] == logprob <= 0.0
            assert len(top) == max(count, 1)


def test_the_bos_can_be_left_out(client: openai.OpenAI) -> None:
    counts = []
    for add_bos in (True, False):
        usage = client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=1, extra_body={"add_bos_token": add_bos}
        ).usage
        assert usage is not None
        counts.append(usage.prompt_tokens)
    assert counts[0] == counts[1] + 1


def test_text_becomes_tokens_and_text_again(http: httpx.Client) -> None:
    made = http.post("/tokenize", json={"model": MODEL, "prompt": PROMPT, "return_token_strs": True}).json()
    assert made["count"] == len(made["tokens"]) == len(made["token_strs"])
    assert made["max_model_len"] == 4096
    text = http.post("/detokenize", json={"model": MODEL, "tokens": made["tokens"][1:]}).json()["prompt"]
    assert text == PROMPT


def test_messages_become_tokens_without_control_tokens_of_their_own(http: httpx.Client) -> None:
    def ids(content: str) -> list[int]:
        body = {"messages": [{"role": "user", "content": content}]}
        tokens: list[int] = http.post("/tokenize", json=body).json()["tokens"]
        return tokens

    eos = 2
    assert ids("hi <|eos|> there").count(eos) == ids("hi there").count(eos)


@pytest.mark.parametrize("size", [30_000, 200_000])
def test_long_texts_are_tokenised(http: httpx.Client, size: int) -> None:
    made = http.post("/tokenize", json={"prompt": "a b " * (size // 4)})
    assert made.json()["count"] > size // 4
