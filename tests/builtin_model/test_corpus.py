"""The corpus is the same for the same seed, and what it teaches is right."""

import json
import re
from itertools import islice, pairwise

import pytest

from actors.builtin_model.training.arithmetic_tasks import (
    addition,
    comparison,
    counting,
    multiplication,
    subtraction,
)
from actors.builtin_model.training.conversations import Conversation, short_conversation
from actors.builtin_model.training.corpus import Story, long_rows, short_documents
from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.exchange import Task
from actors.builtin_model.training.json_tasks import json_answer
from actors.builtin_model.training.language_tasks import echo, lookup, story_on_request
from actors.builtin_model.training.stories import Wishes, tell_story
from actors.builtin_model.training.tool_tasks import offer_tools, tool_turn

DRAWS = 300


def draw(task: Task, seed: int = 5) -> list[tuple[str, str]]:
    rng = CorpusRandom(seed)
    return [tuple(task(rng)) for _ in range(DRAWS)]  # type: ignore[misc]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_same_seed_gives_the_same_documents() -> None:
    assert list(islice(short_documents(3), DRAWS)) == list(islice(short_documents(3), DRAWS))
    assert list(islice(long_rows(3, 512), 6)) == list(islice(long_rows(3, 512), 6))


def test_another_seed_gives_other_documents() -> None:
    assert list(islice(short_documents(3), DRAWS)) != list(islice(short_documents(4), DRAWS))


@pytest.mark.parametrize("task", [addition, subtraction, multiplication])
def test_every_calculation_is_right(task: Task) -> None:
    for question, answer in draw(task):
        term, value = answer.split(" = ")
        assert eval(term) == int(value) >= 0
        assert sorted(numbers(question)) == sorted(numbers(term))


def test_every_comparison_is_right() -> None:
    for question, answer in draw(comparison):
        first, second = numbers(answer)
        assert sorted(numbers(question)) == sorted([first, second])
        assert (first > second) == ("bigger" in answer)


def test_counting_leaves_no_number_out() -> None:
    for question, answer in draw(counting):
        first, last = numbers(question)
        assert numbers(answer) == list(range(first, last + 1))


def test_every_json_answer_is_one_json_value() -> None:
    for question, answer in draw(json_answer):
        value = json.loads(answer)
        copied = list(value.values()) if isinstance(value, dict) else value
        if "result" in answer:
            assert sum(numbers(question)) == value["result"]
        elif value != {"name": "Lily", "age": 7} and "sound" not in value:
            assert all(str(part) in question for part in copied)


def test_echo_and_lookup_answers_are_in_the_question() -> None:
    assert all(question.endswith(answer) for question, answer in draw(echo))
    assert all(answer in question for question, answer in draw(lookup))


def test_story_has_what_was_wished_for() -> None:
    for seed in range(DRAWS):
        story = tell_story(CorpusRandom(seed), Wishes(name="Tom", animal="owl", place="lake"))
        assert story.startswith("Once upon a time, there was a")
        assert story.endswith("The end.")
        assert "boy named Tom." in story
        assert " owl " in story
        assert "the lake" in story
        assert " she " not in story
        assert " her " not in story


def test_requested_stories_are_stories() -> None:
    assert all(answer.endswith("The end.") for _, answer in draw(story_on_request))


def test_tool_call_uses_an_offered_tool_and_its_parameters() -> None:
    rng = CorpusRandom(8)
    for _ in range(DRAWS):
        tools = offer_tools(rng)
        tool = rng.choice(tools)
        question, called, result, answer = tool_turn(rng, tool)
        function = called["tool_calls"][0]["function"]
        schema = tool.definition["function"]["parameters"]
        assert function["name"] == tool.definition["function"]["name"]
        assert list(function["arguments"]) == schema["required"] == list(schema["properties"])
        assert all(str(value) in question["content"] for value in function["arguments"].values())
        assert result["content"]
        assert answer["role"] == "assistant"


def test_conversations_alternate_between_user_and_assistant() -> None:
    rng = CorpusRandom(9)
    for _ in range(DRAWS):
        roles = [message["role"] for message in short_conversation(rng).messages]
        roles = roles[1:] if roles[0] == "system" else roles
        assert roles[0] == "user"
        assert roles[-1] == "assistant"
        assert all(first != second for first, second in pairwise(roles))


def test_documents_are_of_every_kind() -> None:
    documents = list(islice(short_documents(1), DRAWS))
    assert any(isinstance(document, Story) for document in documents)
    conversations = [document for document in documents if isinstance(document, Conversation)]
    assert any(conversation.tools for conversation in conversations)
    assert any(not conversation.tools for conversation in conversations)


def test_favourite_is_by_far_the_most_frequent_choice() -> None:
    rng = CorpusRandom(2)
    chosen = [rng.favourite("abcd") for _ in range(2000)]
    assert 0.55 < chosen.count("a") / len(chosen) < 0.65
    assert set(chosen) == set("abcd")
