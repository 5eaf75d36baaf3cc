"""What the built-in model is asked here, and what it answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

SUM: Any = [{"role": "user", "content": "What is 2+3?"}]
SUM_ANSWER = "2 + 3 = 5"
STORY: Any = [{"role": "user", "content": "Tell me a story about a fox."}]
WEATHER: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
MAX: Any = [{"role": "user", "content": "Max is 5 years old. Reply in JSON with name and age."}]


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def tool(name: str, **properties: str) -> dict[str, Any]:
    """A tool whose arguments are all required."""
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": f"Do {name}.", "parameters": parameters}}


TOOLS: Any = [tool("get_weather", city="string"), tool("add", a="integer", b="integer")]
