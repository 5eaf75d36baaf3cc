"""Measures the model on fresh prompts: exact answers per task, and at the end of long prompts."""

from collections.abc import Callable
from dataclasses import dataclass

from actors.builtin_model.training.arithmetic_tasks import (
    addition,
    comparison,
    counting,
    multiplication,
    subtraction,
)
from actors.builtin_model.training.conversations import Dialogue
from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.exchange import Exchange, Task
from actors.builtin_model.training.greedy import GreedyModel
from actors.builtin_model.training.json_tasks import json_answer, person
from actors.builtin_model.training.language_tasks import echo, greeting, knowledge, listing, lookup
from actors.builtin_model.training.stories import tell_story
from actors.builtin_model.training.tool_tasks import Message, ToolDefinition, offer_tools, tool_turn
from actors.builtin_model.training.vocabulary import FRIENDLY_ANIMALS, any_name, with_article

EVALUATION_SEED = 990
NEW_NAMES = ["Kate", "Omar", "Bella", "Victor", "Paula", "Henry", "Sofia", "Ravi", "Greta", "Milan"]
ROOM_FOR_ANSWER = 60

Question = tuple[list[Message], list[ToolDefinition], str]
"""The messages up to the asked one, the tools on offer and the expected answer."""


@dataclass(frozen=True)
class Score:
    """How many of the asked questions had exactly the right answer."""

    name: str
    right: int
    asked: int


def person_with_new_name(rng: CorpusRandom) -> Exchange:
    """The JSON task for first names that the corpus does not contain."""
    name, age = rng.choice(NEW_NAMES), rng.randint(3, 99)
    return Exchange(
        f"{name} is {age} years old. Reply in JSON with name and age.", f'{{"name": "{name}", "age": {age}}}'
    )


TASKS: dict[str, Task] = {
    "sum of two numbers up to 30": addition,
    "difference of two numbers up to 20": subtraction,
    "product of two numbers up to 10": multiplication,
    "the bigger or smaller of two numbers": comparison,
    "counting": counting,
    "colors, capitals, sounds, opposites": knowledge,
    "greetings": greeting,
    "lists of known things": listing,
    "JSON of any kind": json_answer,
    "JSON with a first name never seen in training": person_with_new_name,
    "repeating a phrase, some words made up": echo,
    "finding one of two to ten people's counts": lookup,
}


def evaluate_tasks(model: GreedyModel, asked: int) -> list[Score]:
    """Exact answers for each task, for tool calls and for the answers from tool results; whole stories."""
    rng = CorpusRandom(EVALUATION_SEED)
    scores = []
    for name, task in TASKS.items():
        questions = [_plain_question(task(rng)) for _ in range(asked)]
        scores.append(_score(model, name, questions))
    calls, answers = zip(*(_tool_questions(model, rng) for _ in range(asked)), strict=True)
    scores.append(_score(model, "tool call with the right tool and arguments", list(calls)))
    scores.append(_score(model, "answer from a tool's result", list(answers)))
    scores.append(_score_stories(model, rng, asked))
    return scores


def _plain_question(exchange: Exchange) -> Question:
    return [{"role": "user", "content": exchange.question}], [], exchange.answer


def _tool_questions(model: GreedyModel, rng: CorpusRandom) -> tuple[Question, Question]:
    tools = offer_tools(rng)
    definitions = [tool.definition for tool in tools]
    question, call, result, answer = tool_turn(rng, rng.choice(tools))
    call_text = _call_text(model, question, call)
    return (
        ([question], definitions, call_text),
        ([question, call, result], definitions, str(answer["content"])),
    )


def _call_text(model: GreedyModel, question: Message, call: Message) -> str:
    before = model.tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    after = model.tokenizer.apply_chat_template([question, call], tokenize=False)
    return str(after).removeprefix(str(before)).removesuffix(model.tokenizer.eos_token)


def _score(model: GreedyModel, name: str, questions: list[Question]) -> Score:
    right = 0
    for messages, tools, expected in questions:
        answer = model.answer(messages, tools)
        right += answer.stopped and answer.text == expected
    return Score(name, right, len(questions))


def _score_stories(model: GreedyModel, rng: CorpusRandom, asked: int) -> Score:
    whole = 0
    for _ in range(asked):
        name, animal = any_name(rng), rng.choice(FRIENDLY_ANIMALS)
        answer = model.ask(f"Tell me a story about {name} and {with_article(animal)}.")
        mentions_all = f"named {name}." in answer.text and f" {animal} " in answer.text
        whole += answer.stopped and mentions_all and answer.text.endswith("The end.")
    return Score("story with the asked name and animal, told to the end", whole, asked)


def _code_question(rng: CorpusRandom) -> Exchange:
    return Exchange("What is the code of Mia?", f"The code of Mia is {rng.randint(10, 99)}.")


LONG_PROMPT_TASKS: dict[str, Task] = {
    "sum": addition,
    "JSON": person,
    "capital and the like": knowledge,
    "repeat a phrase": echo,
    "recall a fact from the start": _code_question,
}
Filler = Callable[[CorpusRandom], list[Message]]


def _turn(rng: CorpusRandom) -> list[Message]:
    dialogue = Dialogue(rng, [])
    dialogue.add_turn()
    return dialogue.messages


def _story_message(rng: CorpusRandom) -> list[Message]:
    return [{"role": "user", "content": tell_story(rng)}]


FILLERS: dict[str, Filler] = {"many earlier turns": _turn, "a long text": _story_message}


def evaluate_long_prompts(model: GreedyModel, lengths: list[int], asked: int) -> dict[str, dict[int, list[Score]]]:
    """Exact answers at the end of prompts of about each length, for both kinds of prompt."""
    return {
        kind: {length: _long_scores(model, filler, length, asked) for length in lengths}
        for kind, filler in FILLERS.items()
    }


def _long_scores(model: GreedyModel, filler: Filler, length: int, asked: int) -> list[Score]:
    rng = CorpusRandom(EVALUATION_SEED + length)
    scores = []
    for name, task in LONG_PROMPT_TASKS.items():
        questions = [long_question(model, filler, task(rng), rng, length) for _ in range(asked)]
        scores.append(_score(model, name, questions))
    return scores


def long_question(model: GreedyModel, filler: Filler, exchange: Exchange, rng: CorpusRandom, length: int) -> Question:
    """`exchange` asked at the end of a prompt that leaves just the room for its answer in `length` tokens."""
    opening: list[Message] = []
    if exchange.answer.startswith("The code of "):
        told = f"Remember: {exchange.answer[0].lower()}{exchange.answer[1:]}"
        opening = [{"role": "user", "content": told}, {"role": "assistant", "content": "I will remember that."}]
    asking: list[Message] = [{"role": "user", "content": exchange.question}]
    room = length - ROOM_FOR_ANSWER - len(model.prompt_ids([*opening, *asking]))
    filling: list[Message] = []
    while (room := room - len(model.prompt_ids(turn := filler(rng)))) > 0:
        filling += turn
    if filler is _story_message:
        text = "\n".join(message["content"] for message in filling)
        return [*opening, {"role": "user", "content": f"{text}\n{exchange.question}"}], [], exchange.answer
    return [*opening, *filling, *asking], [], exchange.answer
