"""Questions that a tool answers: the offered tools, the right call, the result and the answer from it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.vocabulary import PLAIN_WORDS, WEATHERS, any_city, any_phrase, made_up_word

Message = dict[str, Any]
ToolDefinition = dict[str, Any]


@dataclass(frozen=True)
class ToolUse:
    """One question that a tool answers, from the user's words to the model's."""

    names: tuple[str, ...]
    """What such a tool is called; the first is the usual name."""
    parameters: tuple[tuple[str, ...], ...]
    """For each parameter the names that it goes by."""
    description: str
    json_type: str
    question: str
    values: tuple[Any, ...]
    result: str
    answer: str


def _weather(rng: CorpusRandom) -> ToolUse:
    city, weather, degrees = any_city(rng), rng.choice(WEATHERS), rng.randint(0, 35)
    return ToolUse(
        names=("get_weather", "weather", "get_current_weather"),
        parameters=(("city", "location", "place"),),
        description="Get the weather in a city.",
        json_type="string",
        question=rng.choice(
            [
                f"What is the weather in {city}?",
                f"How is the weather in {city} today?",
                f"What is the weather like in {city}?",
                f"Tell me the weather in {city}.",
            ]
        ),
        values=(city,),
        result=rng.choice(
            [
                json.dumps({"weather": weather, "temperature": degrees}),
                json.dumps({"city": city, "weather": weather, "temperature": degrees}),
                f"{weather}, {degrees} degrees",
            ]
        ),
        answer=f"It is {weather} in {city}, and the temperature is {degrees} degrees.",
    )


def _time(rng: CorpusRandom) -> ToolUse:
    city, clock = any_city(rng), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    return ToolUse(
        names=("get_time", "time", "get_current_time"),
        parameters=(("city", "location", "place"),),
        description="Get the time in a city.",
        json_type="string",
        question=rng.choice([f"What time is it in {city}?", f"Tell me the time in {city}."]),
        values=(city,),
        result=rng.choice([json.dumps({"time": clock}), clock]),
        answer=f"It is {clock} in {city}.",
    )


def _arithmetic(rng: CorpusRandom, multiply: bool) -> ToolUse:
    top = rng.choice([10, 30, 999])
    a, b = rng.randint(0, top), rng.randint(0, top)
    sign, word, verb = ("*", "times", "Multiply") if multiply else ("+", "plus", "Add")
    value = a * b if multiply else a + b
    return ToolUse(
        names=("multiply", "product") if multiply else ("add", "sum", "add_numbers"),
        parameters=(("a", "x", "first"), ("b", "y", "second")),
        description=f"{verb} two numbers.",
        json_type="integer",
        question=rng.choice([f"What is {a} {sign} {b}?", f"What is {a} {word} {b}?", f"{verb} {a} and {b}."]),
        values=(a, b),
        result=str(value) if rng.chance(0.5) else json.dumps({"result": value}),
        answer=f"{a} {sign} {b} = {value}",
    )


def _search(rng: CorpusRandom) -> ToolUse:
    query, found = any_phrase(rng, 3), any_phrase(rng, 4)
    return ToolUse(
        names=("search", "web_search", "find"),
        parameters=(("query", "q", "text"),),
        description="Search the web.",
        json_type="string",
        question=rng.choice([f"Search for {query}.", f"Search the web for {query}.", f"Find {query}."]),
        values=(query,),
        result=json.dumps({"result": found}) if rng.chance(0.5) else found,
        answer=f"I found this: {found}",
    )


ToolKind = Callable[[CorpusRandom], ToolUse]


def _addition(rng: CorpusRandom) -> ToolUse:
    return _arithmetic(rng, multiply=False)


def _multiplication(rng: CorpusRandom) -> ToolUse:
    return _arithmetic(rng, multiply=True)


TOOL_KINDS: list[ToolKind] = [_weather, _time, _addition, _multiplication, _search]


@dataclass(frozen=True)
class OfferedTool:
    """A tool under the names that one conversation uses for it."""

    name: str
    parameters: tuple[str, ...]
    kind: ToolKind
    definition: ToolDefinition
    """The tool in the shape of an OpenAI request."""

    @property
    def calculates(self) -> bool:
        """Whether sums belong to this tool instead of being answered by heart."""
        return self.kind in (_addition, _multiplication)


def _offer(rng: CorpusRandom, kind: ToolKind) -> OfferedTool:
    use = kind(rng)
    name, parameters = use.names[0], tuple(names[0] for names in use.parameters)
    if rng.chance(0.3):
        invented = f"{made_up_word(rng)}_{rng.choice(PLAIN_WORDS)}"
        name = invented if rng.chance(0.2) else rng.choice(use.names)
        parameters = tuple(rng.choice(names) for names in use.parameters)
    properties = {parameter: {"type": use.json_type} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    function = {"name": name, "description": use.description, "parameters": schema}
    return OfferedTool(name, parameters, kind, {"type": "function", "function": function})


def offer_tools(rng: CorpusRandom) -> list[OfferedTool]:
    """One to three different tools in any order, usually under their ordinary names."""
    return [_offer(rng, kind) for kind in rng.sample(TOOL_KINDS, rng.choice([1, 1, 2, 2, 3]))]


def tool_turn(rng: CorpusRandom, tool: OfferedTool) -> list[Message]:
    """A question for `tool`, the call, its result and the answer from it."""
    use = tool.kind(rng)
    arguments = dict(zip(tool.parameters, use.values, strict=True))
    call = {"id": "call_1", "type": "function", "function": {"name": tool.name, "arguments": arguments}}
    return [
        {"role": "user", "content": use.question},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": use.result},
        {"role": "assistant", "content": use.answer},
    ]


def question_without_tool(rng: CorpusRandom) -> str:
    """A question that needs a tool for weather or time, for conversations that do not offer one."""
    return rng.choice([_weather, _time])(rng).question
