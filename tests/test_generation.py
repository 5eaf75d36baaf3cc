"""Real text from real workers: the built-in model over two CPU workers, beside transformers' own `generate`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from actors import GenerationResult, Pool
from actors.builtin_model import builtin_model_path

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STORY = "Once upon a time, there was a {} {} named {}."
TEXTS = [
    STORY.format(adjective, kind, name)
    for adjective, kind, name in [
        ("little", "girl", "Lily"),
        ("brave", "boy", "Tom"),
        ("kind", "girl", "Mia"),
        ("happy", "boy", "Ben"),
        ("curious", "girl", "Anna"),
        ("shy", "boy", "Max"),
        ("clever", "girl", "Emma"),
        ("quiet", "boy", "Leo"),
    ]
]
QUESTIONS = [f"What is {a}+{b}?" for a, b in [(1, 2), (7, 8), (3, 9), (10, 4), (0, 5), (6, 6)]] + [
    "Hello!",
    "Max is 5 years old. Reply in JSON with name and age.",
    "What is the capital of France?",
    "Count from 1 to 5.",
]
MAX_NEW_TOKENS = 48


@pytest.fixture(scope="module")
def pool(ray_cluster: None) -> Iterator[Pool]:
    settings: dict[str, Any] = {"engine": "cpu", "cache_tokens": 32768, "max_batch_size": 16}
    with Pool.start(name="real", workers=2, wait_for="all", **settings) as made:
        yield made


@pytest.fixture(scope="module")
def token_prompts() -> list[tuple[int, ...]]:
    """32 mixed prompts as token ids: stories, questions through the template, long ones, single tokens."""
    from actors.request.prompt import PromptEncoder

    encoder = PromptEncoder.load(builtin_model_path())
    prompts = [encoder.encode(text) for text in TEXTS]
    prompts += [encoder.encode([{"role": "user", "content": question}]) for question in QUESTIONS]
    prompts += [encoder.encode(" ".join(TEXTS[: 2 + i]) * (1 + i)) for i in range(6)]
    generator = random.Random(7)
    prompts += [
        tuple([1] + [generator.randrange(7, 2048) for _ in range(n)]) for n in (1, 5, 63, 255, 256, 257, 511, 600)
    ]
    return prompts


@pytest.fixture(scope="module")
def reference(token_prompts: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Greedy completions by transformers, one prompt at a time, without the EOS that ends them."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(builtin_model_path(), dtype=torch.float32)
    completions = []
    for prompt in token_prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = out[0, len(prompt) :].tolist()
        completions.append(tuple(new[: new.index(2)] if 2 in new else new))
    return completions


def test_there_are_32_prompts_and_some_end_by_themselves(
    token_prompts: list[tuple[int, ...]], reference: list[tuple[int, ...]]
) -> None:
    assert len(token_prompts) == 32
    assert any(len(completion) < MAX_NEW_TOKENS for completion in reference)
    assert any(len(completion) == MAX_NEW_TOKENS for completion in reference)


@pytest.mark.parametrize("order_seed", [1, 2])
def test_greedy_text_equals_that_of_transformers_token_for_token(
    pool: Pool, token_prompts: list[tuple[int, ...]], reference: list[tuple[int, ...]], order_seed: int
) -> None:
    order = random.Random(order_seed).sample(range(len(token_prompts)), len(token_prompts))
    references = {
        index: pool.generate.remote(token_prompts[index], max_new_tokens=MAX_NEW_TOKENS, temperature=0.0)
        for index in order
    }
    results: dict[int, GenerationResult] = {index: ray.get(ref, timeout=120) for index, ref in references.items()}
    different = [index for index in order if results[index].token_ids != reference[index]]
    assert different == []
    assert len({result.worker_id for result in results.values()}) == 2


def test_a_seed_gives_the_same_text_alone_and_in_company(pool: Pool) -> None:
    def ask(text: str, seed: int) -> ray.ObjectRef[GenerationResult]:
        return pool.generate.remote(text, seed=seed, temperature=0.9, top_p=0.95, max_new_tokens=40)

    alone = ray.get(ask(TEXTS[0], 7), timeout=60)
    company = [ask(TEXTS[number % 8], 100 + number) for number in range(20)]
    among = ray.get(ask(TEXTS[0], 7), timeout=60)
    others = ray.get(company, timeout=60)
    assert among.token_ids == alone.token_ids
    assert alone.seed == 7
    assert len({other.text for other in others}) > 10


def test_text_messages_and_ids_reach_the_model(pool: Pool) -> None:
    story = ray.get(pool.generate.remote("Once upon a time,", max_new_tokens=60, temperature=0.0), timeout=60)
    assert "there was a" in story.text
    answer = ray.get(
        pool.generate.remote([{"role": "user", "content": "What is 2+3?"}], max_new_tokens=20, temperature=0.0),
        timeout=60,
    )
    assert answer.text == "2 + 3 = 5"


def test_a_json_schema_makes_the_answer_parse(pool: Pool) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    references = [
        pool.generate.remote("Tell me anything.", json_schema=schema, max_new_tokens=60, seed=seed) for seed in range(6)
    ]
    for result in ray.get(references, timeout=60):
        value = json.loads(result.text)
        assert set(value) == {"name", "age"}
        assert 0 <= value["age"] <= 99


def test_a_stream_is_the_result_in_pieces(pool: Pool) -> None:
    whole = ray.get(pool.generate.remote(TEXTS[1], max_new_tokens=60, temperature=0.0), timeout=60)
    deltas = list(pool.stream(TEXTS[1], max_new_tokens=60, temperature=0.0))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert tuple(token for delta in deltas for token in delta.token_ids) == whole.token_ids


def test_a_repeated_prompt_is_not_computed_again(pool: Pool) -> None:
    prompt = " ".join(TEXTS * 6)
    first = ray.get(pool.generate.remote(prompt, max_new_tokens=2), timeout=60)
    again = ray.get(pool.generate.remote(prompt, max_new_tokens=2), timeout=60)
    assert first.usage.prompt_tokens > 512
    assert again.usage.cached_tokens >= 512
    assert again.worker_id == first.worker_id
