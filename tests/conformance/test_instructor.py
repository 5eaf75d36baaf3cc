"""instructor: objects out of answers, in each of its modes for OpenAI."""

from __future__ import annotations

import instructor
import openai
import pytest

from tests.conformance.asking import MAX, Person
from tests.conformance.server import MODEL, Server

pytestmark = pytest.mark.ray

EXACT = {instructor.Mode.JSON_SCHEMA}
"""Modes in which the prompt is not changed, so that the tiny model knows the answer."""
MODES = (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS, instructor.Mode.JSON)


@pytest.mark.parametrize("mode", MODES)
def test_an_object(client: openai.OpenAI, mode: instructor.Mode) -> None:
    asked = instructor.from_openai(client, mode=mode)
    person = asked.chat.completions.create(
        model=MODEL, messages=MAX, response_model=Person, temperature=0, max_tokens=80, max_retries=2
    )
    assert isinstance(person, Person)
    if mode in EXACT:
        assert (person.name, person.age) == ("Max", 5)


async def test_an_object_async(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=server.api, api_key=server.key) as client:
        asked = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
        person = await asked.chat.completions.create(
            model=MODEL, messages=MAX, response_model=Person, temperature=0, max_tokens=80
        )
    assert (person.name, person.age) == ("Max", 5)  # instructor makes a class of its own


def test_an_object_that_grows(client: openai.OpenAI) -> None:
    asked = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    seen = list(
        asked.chat.completions.create_partial(
            model=MODEL, messages=MAX, response_model=Person, temperature=0, max_tokens=80
        )
    )
    assert len(seen) > 1
    assert seen[-1].name is not None
    assert seen[-1].age is not None


def test_the_completion_beside_it(client: openai.OpenAI) -> None:
    asked = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    person, completion = asked.chat.completions.create_with_completion(
        model=MODEL, messages=MAX, response_model=Person, temperature=0, max_tokens=80
    )
    assert isinstance(person, Person)
    assert completion.usage.completion_tokens > 0
