"""Writes the golden file: greedy outputs that every engine has to reproduce, with their smallest margins.

An engine in float32 on a CPU gives exactly these tokens. In fp16, or on a GPU, logits differ a little: compare
whole outputs only where `smallest_margin` is well above that difference, else the tokens before
`smallest_margin_step`. Run `python -m actors.builtin_model.training.golden`.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.builtin_model import builtin_model_path
from actors.builtin_model.training.export import write_json
from actors.builtin_model.training.greedy import GreedyAnswer, GreedyModel
from actors.builtin_model.training.tool_tasks import Message, ToolDefinition

GOLDEN_FILE = Path("tests/builtin_model/golden.json")


def _tool(name: str, description: str, **parameters: str) -> ToolDefinition:
    properties = {parameter: {"type": json_type} for parameter, json_type in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


WEATHER_TOOL = _tool("get_weather", "Get the weather in a city.", city="string")
ADD_TOOL = _tool("add", "Add two numbers.", a="integer", b="integer")
SEARCH_TOOL = _tool("search", "Search the web.", query="string")


@dataclass(frozen=True)
class GoldenPrompt:
    """A plain text to continue, or a chat with the tools on offer."""

    name: str
    text: str | None = None
    messages: list[Message] = field(default_factory=list)
    tools: list[ToolDefinition] = field(default_factory=list)
    max_tokens: int = 300


def _question(name: str, question: str, *tools: ToolDefinition, max_tokens: int = 300) -> GoldenPrompt:
    return GoldenPrompt(
        name, messages=[{"role": "user", "content": question}], tools=list(tools), max_tokens=max_tokens
    )


def _weather_result() -> list[Message]:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    return [
        {"role": "user", "content": "What is the weather in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"weather": "sunny", "temperature": 21}'},
    ]


def _two_turns() -> list[Message]:
    return [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "My name is Ruby."},
        {"role": "assistant", "content": "Nice to meet you, Ruby!"},
        {"role": "user", "content": [{"type": "text", "text": "What is my name?"}]},
    ]


GOLDEN_PROMPTS = [
    GoldenPrompt("story_continued", text="Once upon a time,"),
    GoldenPrompt("story_continued_short", text="Once upon a time,", max_tokens=20),
    GoldenPrompt("story_of_a_given_child", text="Once upon a time, there was a brave girl named Zoe."),
    _question("story_requested", "Tell me a story."),
    _question("story_about_a_fox", "Tell me a story about a fox."),
    _question("hello", "Hello!"),
    _question("who", "Who are you?"),
    _question("sum_small", "What is 2+3?"),
    _question("sum_spelled", "What is 7 plus 8?"),
    _question("sum_large", "What is 19 + 14?"),
    _question("difference", "What is 9 - 4?"),
    _question("product", "What is 6 times 7?"),
    _question("capital", "What is the capital of France?"),
    _question("count", "Count from 1 to 10."),
    _question("count_long", "Count from 1 to 50."),
    _question("echo", "Repeat after me: hello world"),
    _question("json_default", "Reply in JSON with name and age"),
    _question("json_person", "Max is 5 years old. Reply in JSON with name and age."),
    _question("json_list", "Write a JSON list: red, blue, green."),
    _question("tool_call_weather", "What is the weather in Paris?", WEATHER_TOOL),
    _question("tool_call_one_of_two", "What is 12 + 30?", WEATHER_TOOL, ADD_TOOL),
    _question("tool_call_search", "Search for red kite.", SEARCH_TOOL, WEATHER_TOOL),
    _question("tool_not_needed", "What is the capital of Spain?", WEATHER_TOOL),
    GoldenPrompt("tool_result", messages=_weather_result(), tools=[WEATHER_TOOL]),
    GoldenPrompt("second_turn", messages=_two_turns()),
]


def golden_case(prompt: GoldenPrompt, answer: GreedyAnswer) -> dict[str, Any]:
    """One entry of the golden file."""
    step = min(range(len(answer.margins)), key=answer.margins.__getitem__)
    request: dict[str, Any] = {"text": prompt.text}
    if prompt.text is None:
        request = {"messages": prompt.messages, "tools": prompt.tools}
    return {
        "name": prompt.name,
        **request,
        "max_tokens": prompt.max_tokens,
        "prompt_ids": answer.prompt_ids,
        "output_ids": answer.token_ids,
        "output_text": answer.text,
        "finish_reason": "stop" if answer.stopped else "length",
        "smallest_margin": round(answer.margins[step], 4),
        "smallest_margin_step": step,
    }


def golden_answer(model: GreedyModel, prompt: GoldenPrompt) -> GreedyAnswer:
    """What `model` says to `prompt`."""
    if prompt.text is not None:
        return model.complete(prompt.text, prompt.max_tokens)
    return model.answer(prompt.messages, prompt.tools, prompt.max_tokens)


def main() -> None:
    """Writes the golden file of a model directory."""
    parser = argparse.ArgumentParser(description="Write the greedy outputs that engines are tested against.")
    parser.add_argument("--model", type=Path, default=builtin_model_path())
    parser.add_argument("--out", type=Path, default=GOLDEN_FILE)
    options = parser.parse_args()
    model = GreedyModel(options.model)
    cases = [golden_case(prompt, golden_answer(model, prompt)) for prompt in GOLDEN_PROMPTS]
    write_json(options.out, {"dtype": "float32", "cases": cases})
    for case in cases:
        print(f"{case['name']}: margin {case['smallest_margin']} {case['finish_reason']} {case['output_text'][:100]!r}")


if __name__ == "__main__":
    main()
