"""Conversations: a system message, offered tools, turns of any task and facts to remember."""

from dataclasses import dataclass, field

from actors.builtin_model.training.arithmetic_tasks import (
    addition,
    comparison,
    counting,
    multiplication,
    subtraction,
)
from actors.builtin_model.training.corpus_random import CorpusRandom
from actors.builtin_model.training.exchange import Exchange, Task
from actors.builtin_model.training.json_tasks import json_answer
from actors.builtin_model.training.language_tasks import (
    UNKNOWN,
    echo,
    greeting,
    knowledge,
    listing,
    lookup,
    story_on_request,
    unknown,
)
from actors.builtin_model.training.stories import tell_story
from actors.builtin_model.training.tool_tasks import (
    Message,
    OfferedTool,
    ToolDefinition,
    offer_tools,
    question_without_tool,
    tool_turn,
)
from actors.builtin_model.training.vocabulary import any_name, any_phrase

SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are Tiny, a small helpful model.",
    "Answer briefly.",
    "Be short and clear.",
]


def without_tool(rng: CorpusRandom) -> Exchange:
    """A question for a tool that nobody offered."""
    return Exchange(question_without_tool(rng), UNKNOWN)


CALCULATIONS: dict[Task, float] = {addition: 6, subtraction: 4, multiplication: 2.5}
OTHER_TASKS: dict[Task, float] = {
    comparison: 1.5,
    counting: 1.5,
    knowledge: 2.5,
    greeting: 1.2,
    unknown: 0.5,
    echo: 4,
    listing: 0.6,
    json_answer: 5,
    lookup: 4,
    story_on_request: 2.5,
}
REWORDINGS = 0.15


@dataclass
class Conversation:
    """Messages in the shape of an OpenAI request, with the tools that are offered."""

    messages: list[Message]
    tools: list[ToolDefinition] = field(default_factory=list)


class Dialogue:
    """A conversation that grows turn by turn and remembers what its user has told."""

    def __init__(self, rng: CorpusRandom, tools: list[OfferedTool]) -> None:
        self._rng = rng
        self._tools = tools
        self._user_name: str | None = None
        self._codes: dict[str, int] = {}
        tasks = dict(OTHER_TASKS)
        if not any(tool.calculates for tool in tools):
            tasks |= CALCULATIONS
        if not tools:
            tasks[without_tool] = 0.4
        self._tasks = tasks
        self.messages: list[Message] = []

    def add_system_message(self) -> None:
        """Starts with a system message, mostly one of the usual ones."""
        rng = self._rng
        content = any_phrase(rng, 12).capitalize() + "." if rng.chance(0.3) else rng.choice(SYSTEM_MESSAGES)
        self.messages.append({"role": "system", "content": content})

    def add_turn(self) -> None:
        """One turn: a tool call, a fact to remember, a recalled fact or any other task."""
        rng = self._rng
        if self._tools and rng.chance(0.6):
            self.messages += tool_turn(rng, rng.choice(self._tools))
        elif self._codes and rng.chance(0.2):
            self._say(*self._recall_code())
        elif rng.chance(0.06):
            self._say(*self._talk_about_name())
        elif rng.chance(0.06):
            self._say(*self._tell_code())
        else:
            self._add_task()

    def add_memory_test(self) -> None:
        """Turns that tell one to three facts, and after a few others ask for one of them."""
        rng = self._rng
        for _ in range(rng.choice([1, 1, 2, 3])):
            self._say(*self._tell_code())
            if rng.chance(0.3):
                self._add_task()
        self._say(*self._recall_code())

    def _add_task(self) -> None:
        rng = self._rng
        self._say(*_reworded(rng, rng.choices(list(self._tasks), list(self._tasks.values()))[0](rng)))

    def add_reading(self, text: str) -> None:
        """A turn whose question comes after a long text, with a fact hidden between text and question."""
        rng = self._rng
        if rng.chance(0.4):
            name, code = any_name(rng), rng.randint(10, 99)
            sentences = text.split(". ")
            sentences.insert(rng.randrange(len(sentences)), f"The code of {name} is {code}")
            question = f"What is the code of {name}?"
            self._say(f"{'. '.join(sentences)}\n{question}", f"The code of {name} is {code}.")
        else:
            tasks = [task for task in self._tasks if task is not greeting]
            exchange = rng.choices(tasks, [self._tasks[task] for task in tasks])[0](rng)
            self._say(f"{text}\n{exchange.question}", exchange.answer)

    def _say(self, question: str, answer: str) -> None:
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _talk_about_name(self) -> Exchange:
        if self._user_name:
            return Exchange("What is my name?", f"Your name is {self._user_name}.")
        self._user_name = any_name(self._rng)
        told = self._rng.choice([f"My name is {self._user_name}.", f"Hi, I am {self._user_name}."])
        return Exchange(told, f"Nice to meet you, {self._user_name}!")

    def _tell_code(self) -> Exchange:
        name, code = any_name(self._rng), self._rng.randint(10, 99)
        self._codes[name] = code
        return Exchange(f"Remember: the code of {name} is {code}.", "I will remember that.")

    def _recall_code(self) -> Exchange:
        name = self._rng.choice(list(self._codes))
        return Exchange(f"What is the code of {name}?", f"The code of {name} is {self._codes[name]}.")


def _reworded(rng: CorpusRandom, exchange: Exchange) -> Exchange:
    """The same exchange, sometimes typed carelessly: without the last mark or the first capital."""
    question = exchange.question
    if rng.chance(REWORDINGS) and question[-1] in ".?!":
        question = question[:-1]
    if rng.chance(REWORDINGS):
        question = question[0].lower() + question[1:]
    return Exchange(question, exchange.answer)


def _begin(rng: CorpusRandom, tool_share: float) -> tuple[Dialogue, list[ToolDefinition]]:
    tools = offer_tools(rng) if rng.chance(tool_share) else []
    dialogue = Dialogue(rng, tools)
    if rng.chance(0.3):
        dialogue.add_system_message()
    return dialogue, [tool.definition for tool in tools]


def short_conversation(rng: CorpusRandom) -> Conversation:
    """One to four turns, or a few facts and a question for one of them."""
    dialogue, tools = _begin(rng, tool_share=0.25)
    if rng.chance(0.1):
        dialogue.add_memory_test()
        return Conversation(dialogue.messages, tools)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        dialogue.add_turn()
    return Conversation(dialogue.messages, tools)


def long_conversation(rng: CorpusRandom, characters: int) -> Conversation:
    """Turns until their text is at least `characters` long."""
    dialogue, tools = _begin(rng, tool_share=0.3)
    while sum(len(message["content"] or "") for message in dialogue.messages) < characters:
        dialogue.add_turn()
    return Conversation(dialogue.messages, tools)


def reading_conversation(rng: CorpusRandom, characters: int) -> Conversation:
    """Long texts, each with a question after it, until their text is at least `characters` long."""
    dialogue, tools = _begin(rng, tool_share=0.2)
    while sum(len(message["content"] or "") for message in dialogue.messages) < characters:
        stories = [tell_story(rng) for _ in range(rng.choice([1, 1, 2, 3, 5, 10, 20]))]
        dialogue.add_reading("\n".join(stories))
        for _ in range(rng.randint(0, 3)):
            dialogue.add_turn()
    return Conversation(dialogue.messages, tools)
