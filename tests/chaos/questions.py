"""Requests whose answers do not depend on chance: what a calm run answers, every other run has to answer too."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.plan import MODEL

HTTP_STREAM, HTTP_WHOLE = "HTTP stream", "HTTP whole"
SCRIPT_STREAM, SCRIPT_WHOLE = "script stream", "script whole"
WAYS = (HTTP_STREAM, HTTP_STREAM, HTTP_WHOLE, SCRIPT_STREAM, SCRIPT_STREAM, SCRIPT_WHOLE)
GREEDY, SEEDED, SCHEMA, MANY = "greedy", "seeded", "JSON schema", "n > 1"
KINDS = (GREEDY, GREEDY, SEEDED, SEEDED, SCHEMA, MANY)
NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Max", "Emma", "Sam", "Rosa", "Leo", "Nora", "Jack")
ANIMALS = ("fox", "cat", "dog", "bird", "bear", "frog", "duck", "fish")
FURTHER: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"frequency_penalty": 0.3},
    {"repetition_penalty": 1.1},
    {"stop": ["went to the park", "was very sad"]},
)
PERSONS = {
    "type": "array",
    "minItems": 4,
    "maxItems": 8,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`options` are words that the API and `pool.generate` share; `max_tokens` bounds the completion."""

    number: int
    way: str
    kind: str
    prompt: str
    max_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    n: int = 1

    @property
    def streamed(self) -> bool:
        return self.way in (HTTP_STREAM, SCRIPT_STREAM)

    def body(self) -> dict[str, Any]:
        """The body of `/v1/completions`. `logprobs` tell the tokens one by one."""
        extra: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if self.streamed else {}
        if self.kind == SCHEMA:
            extra["guided_json"] = PERSONS
        given = {"model": MODEL, "prompt": self.prompt, "max_tokens": self.max_tokens, "n": self.n, "logprobs": 0}
        return {**given, **self.options, **extra}

    def pool_options(self) -> dict[str, Any]:
        """The same for `pool.generate` and `pool.stream`."""
        extra: dict[str, Any] = {"json_schema": PERSONS} if self.kind == SCHEMA else {}
        return {"max_new_tokens": self.max_tokens, **self.options, **extra}


def make_questions(rng: random.Random, count: int) -> list[Question]:
    """So many, of all ways and kinds."""
    return [_question(rng, number) for number in range(count)]


def _question(rng: random.Random, number: int) -> Question:
    kind = KINDS[number % len(KINDS)]
    ways = (HTTP_STREAM, HTTP_WHOLE) if kind == MANY else WAYS
    options: dict[str, Any] = {"temperature": 0.0}
    if kind in (SEEDED, MANY) or (kind == SCHEMA and rng.random() < 0.5):
        options = {"temperature": 0.9, "top_p": 0.95, "seed": rng.randrange(2**31)}
    if kind != SCHEMA:
        options["ignore_eos"] = True
        options |= rng.choice(FURTHER)
    return Question(
        number=number,
        way=rng.choice(ways),
        kind=kind,
        prompt=_prompt(rng, kind),
        max_tokens=rng.randint(40, 120) if kind == MANY else rng.randint(60, 300),
        options=options,
        n=rng.randint(2, 3) if kind == MANY else 1,
    )


def _prompt(rng: random.Random, kind: str) -> str:
    """Some of them long, with a beginning that others have too."""
    name, animal = rng.choice(NAMES), rng.choice(ANIMALS)
    if kind == SCHEMA:
        return f"A list of friends of {name}, each with name and age, in JSON: "
    story = f"Once upon a time, there was a little girl named {name} who had a {animal}. "
    return story * rng.choice((1, 1, 1, 1, 20)) + f"One day, {name}"
