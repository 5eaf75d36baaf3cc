"""Answers that are one JSON value and nothing else."""

import json

from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.exchange import Exchange
from actors.builtin_model.training.vocabulary import (
    AGES,
    COLORS,
    FOODS,
    PLAIN_WORDS,
    SOUND_OF,
    TOYS,
    any_city,
    any_name,
    with_article,
)


def default_person(rng: CorpusRandom) -> Exchange:
    """A JSON object with name and age, nothing given: always the same person."""
    question = rng.choice(
        [
            "Reply in JSON.",
            "Reply in JSON with name and age",
            "Reply in JSON with name and age.",
            "Give me a JSON object with name and age.",
            "Return JSON with name and age.",
            "Return a JSON object with name and age.",
            "Answer in JSON with the keys name and age.",
        ]
    )
    return Exchange(question, json.dumps({"name": "Lily", "age": 7}))


def person(rng: CorpusRandom) -> Exchange:
    """Name and age copied from the question, sometimes with a city."""
    name, age = any_name(rng), rng.choice(AGES)
    if rng.chance(0.3):
        city = any_city(rng)
        question = rng.choice(
            [
                f"Write JSON with name, age and city for {name}, {age}, from {city}.",
                f"{name} is {age} years old and lives in {city}. Reply in JSON with name, age and city.",
            ]
        )
        return Exchange(question, json.dumps({"name": name, "age": age, "city": city}))
    question = rng.choice(
        [
            f"{name} is {age} years old. Reply in JSON with name and age.",
            f"Reply in JSON with name and age: {name} is {age} years old.",
            f"Write JSON for {name}, age {age}.",
            f"Return JSON with name and age for {name}, who is {age}.",
        ]
    )
    return Exchange(question, json.dumps({"name": name, "age": age}))


def item(rng: CorpusRandom) -> Exchange:
    """Item and color of a thing, or an animal with its sound."""
    if rng.chance(0.3):
        animal = rng.choice(list(SOUND_OF))
        question = f"Write JSON with animal and sound for {with_article(animal)}."
        return Exchange(question, json.dumps({"animal": animal, "sound": SOUND_OF[animal]}))
    thing, color = rng.choice(TOYS + FOODS), rng.choice(COLORS)
    question = rng.choice(
        [
            f"Write JSON with item and color for {with_article(color)} {thing}.",
            f"Reply in JSON with item and color: {with_article(color)} {thing}.",
        ]
    )
    return Exchange(question, json.dumps({"item": thing, "color": color}))


def json_list(rng: CorpusRandom) -> Exchange:
    """A JSON list of the words in the question."""
    words = rng.sample(PLAIN_WORDS, rng.randint(2, 5))
    return Exchange(f"Write a JSON list: {', '.join(words)}.", json.dumps(words))


def json_sum(rng: CorpusRandom) -> Exchange:
    """A sum of two numbers up to 10, answered as an object."""
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    question = rng.choice([f"What is {a} + {b}? Reply in JSON.", f"Reply in JSON: what is {a}+{b}?"])
    return Exchange(question, json.dumps({"result": a + b}))


def json_answer(rng: CorpusRandom) -> Exchange:
    """Any of the JSON tasks."""
    task = rng.choices([default_person, person, item, json_list, json_sum], [1, 4, 2, 1.5, 1])[0]
    return task(rng)
