"""The official client's plain completions and models."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.conformance.server import MODEL, MODELS

pytestmark = pytest.mark.ray


@pytest.fixture
def client(lenient: openai.OpenAI) -> openai.OpenAI:
    """Until its last chunk a stream has the finish_reason null, as OpenAI's own: the client's type forgets that."""
    return lenient


PROMPT = "Once upon a time,"
OTHER = "What is 2+3?"


def test_models(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert [model.id for model in listed] == [model["name"] for model in MODELS]
    assert client.models.retrieve(MODEL) == listed[0]
    assert list(client.models.list()) == listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody/knows me")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_lists_of_prompts(client: openai.OpenAI, http: httpx.Client, stream: bool) -> None:
    ids = [http.post("/tokenize", json={"prompt": prompt}).json()["tokens"] for prompt in (PROMPT, OTHER)]
    options: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 10, "stream": stream}
    prompts: list[Any] = [PROMPT, ids[0], [PROMPT, OTHER], ids]
    texts = []
    for prompt in prompts:
        answer: Any = client.completions.create(prompt=prompt, **options)
        found: dict[int, str] = {}
        for choice in [chunk.choices[0] for chunk in answer] if stream else answer.choices:
            found[choice.index] = found.get(choice.index, "") + choice.text
        texts.append([found[index] for index in range(len(found))])
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]
    assert len(texts[2]) == 2
    assert texts[2][0] == texts[0][0]


@pytest.mark.parametrize("stream", [False, True])
def test_echo(client: openai.OpenAI, stream: bool) -> None:
    answer: Any = client.completions.create(
        model=MODEL, prompt=PROMPT, echo=True, temperature=0, max_tokens=5, stream=stream
    )
    text = "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text
    assert text.startswith(PROMPT)
    assert len(text) > len(PROMPT)


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    options: Any = {"model": MODEL, "prompt": [PROMPT, OTHER], "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**options)
    chunks: Any = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks}) == 1
    assert chunks[0].object == "text_completion"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [0, 3])
def test_logprobs(client: openai.OpenAI, count: int, stream: bool) -> None:
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
    assert all(logprob <= 0.0 for piece in pieces for logprob in piece.token_logprobs)
    assert all(len(top) == max(count, 1) for piece in pieces for top in piece.top_logprobs)
