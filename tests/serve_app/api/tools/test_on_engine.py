"""The built-in model on the CPU engine: what it is made to call always parses, and what it calls by itself is right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from actors.builtin_model import builtin_model_path
from actors.config import EngineConfig
from actors.engines.base import EngineJob
from actors.engines.cpu import CpuEngine
from actors.request.prompt import PromptEncoder, TemplateOptions
from actors.results import FinishReason
from serve_app.api.response_format import ResponseFormat, text_constraint
from serve_app.api.tools import Tool, ToolChoice, ToolPlan, plan_tools
from serve_app.models.tool_format import added_tokens, detect_format
from tests.engines.cpu.harness import Outcome, ids_of, job, run
from tests.serve_app.api.tools.offered import ADD, TOOLS, WEATHER, check_call
from tests.serve_app.api.tools.reading import Reading, joined

ENCODER = PromptEncoder.load(builtin_model_path())
FORMAT = detect_format(ENCODER.template_source, added_tokens(ENCODER.tokenizer))
QUESTION = "What is the weather in Paris?"
SEEDS = range(12)


@pytest.fixture(scope="module")
def engine() -> Iterator[CpuEngine]:
    engine = CpuEngine(EngineConfig(engine="cpu", cache_tokens=64 * 256, chunk_tokens=256, max_batch_size=16))
    engine.load(lambda _: None)
    yield engine
    engine.close()


def plan_of(tools: Sequence[Tool], choice: ToolChoice, **options: Any) -> ToolPlan:
    return plan_tools(tools, choice, tool_format=FORMAT, **options)


def asked(plan: ToolPlan, question: str, job_id: int, *, max_new_tokens: int = 250, **params: Any) -> EngineJob:
    options = TemplateOptions(tools=plan.template_tools)
    token_ids = ENCODER.encode([{"role": "user", "content": question}], options)
    return job(job_id, token_ids, max_new_tokens, seed=job_id, **plan.sampling(), **params)


def read(plan: ToolPlan, outcome: Outcome) -> tuple[Reading, str]:
    """What a client sees, and its finish reason."""
    parser = plan.parser()
    reading = joined([*parser.push(outcome.text), *parser.finish()])
    reading.unfinished = parser.unfinished
    return reading, plan.finish_reason(outcome.end.reason, parser)


@pytest.mark.parametrize("question", [QUESTION, "Tell me a story about a dog."])
def test_one_demanded_call_always_parses(engine: CpuEngine, question: str) -> None:
    plan = plan_of(TOOLS, ToolChoice("required"), parallel=False)
    outcomes = run(engine, *(asked(plan, question, seed, temperature=1.0) for seed in SEEDS))
    for outcome in outcomes.values():
        reading, reason = read(plan, outcome)
        assert (reading.text, len(reading.calls), reading.unfinished, reason) == ("", 1, False, "tool_calls")
        check_call(TOOLS, *reading.calls[0])


def test_demanded_calls_always_parse_when_there_may_be_several(engine: CpuEngine) -> None:
    plan = plan_of(TOOLS, ToolChoice("required"))
    outcomes = run(engine, *(asked(plan, QUESTION, seed, temperature=1.5, max_new_tokens=400) for seed in SEEDS))
    ended = [outcome for outcome in outcomes.values() if outcome.end.reason is FinishReason.STOP]
    assert ended
    for outcome in outcomes.values():
        reading, reason = read(plan, outcome)
        assert reading.text == ""
        assert reason == ("tool_calls" if outcome in ended else "length")
        for call in reading.calls if outcome in ended else reading.calls[:-1]:
            check_call(TOOLS, *call)
        assert reading.calls


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_named_tool_is_the_one_that_is_called(engine: CpuEngine, tool: Tool) -> None:
    plan = plan_of(TOOLS, ToolChoice("named", tool.name))
    outcomes = run(engine, *(asked(plan, QUESTION, seed, temperature=1.0) for seed in SEEDS))
    for outcome in outcomes.values():
        reading, reason = read(plan, outcome)
        assert (reading.text, [name for name, _ in reading.calls], reason) == ("", [tool.name], "stop")
        check_call(TOOLS, *reading.calls[0])


def test_the_model_calls_a_tool_of_its_own_accord(engine: CpuEngine) -> None:
    plain = plan_of([WEATHER, ADD], ToolChoice("auto"))
    strict = [Tool(name=tool.name, parameters=tool.parameters, strict=True) for tool in (WEATHER, ADD)]
    bound = plan_of(strict, ToolChoice("auto"))
    assert plain.sampling() == {}
    assert bound.sampling() != {}
    for plan in (plain, bound):
        outcomes = run(engine, asked(plan, QUESTION, 1), asked(plan, "What is 12 + 30?", 2))
        weather, total = (read(plan, outcome) for outcome in outcomes.values())
        assert weather[0].calls == [("get_weather", '{"city": "Paris"}')]
        assert total[0].calls == [("add", '{"a": 12, "b": 30}')]
        assert weather[0].text == total[0].text == ""
        assert weather[1] == total[1] == "tool_calls"


def test_the_model_answers_in_words_where_no_tool_helps(engine: CpuEngine) -> None:
    for choice in (ToolChoice("auto"), ToolChoice("none")):
        plan = plan_of([ADD], choice)
        (outcome,) = run(engine, asked(plan, "What is the capital of Spain?", 1)).values()
        reading, reason = read(plan, outcome)
        assert (reading.text, reading.calls, reason) == ("The capital of Spain is Madrid.", [], "stop")


def test_fragments_come_as_the_engine_emits_them(engine: CpuEngine) -> None:
    """One push per token gives the same call, in more than one fragment."""
    plan = plan_of([WEATHER], ToolChoice("required"), parallel=False)
    (outcome,) = run(engine, asked(plan, QUESTION, 1)).values()
    parser = plan.parser()
    events = [
        event
        for token_id in outcome.token_ids
        for event in parser.push(ENCODER.tokenizer.decode([token_id], skip_special_tokens=True))
    ]
    assert parser.finish() == []
    assert len(events) > 3
    assert joined(events).calls == [("get_weather", '{"city": "Paris"}')] == read(plan, outcome)[0].calls


@pytest.mark.parametrize("offered", [None, [ADD]])
def test_documents_match_their_schema(engine: CpuEngine, offered: list[Tool] | None) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    constraint = text_constraint(ResponseFormat(type="json_schema", schema=schema))
    plan = plan_tools(offered, None, tool_format=FORMAT, constraint=constraint)
    outcomes = run(engine, *(asked(plan, "Who are you?", seed, temperature=1.0) for seed in SEEDS))
    brace = ids_of('{"')[0]  # this model would rather call a tool: push half of its answers towards the document
    pushed = run(engine, *(asked(plan, "Who?", seed, temperature=1.0, logit_bias={brace: 30.0}) for seed in SEEDS))
    documents = 0
    for outcome in (*outcomes.values(), *pushed.values()):
        reading, reason = read(plan, outcome)
        if reading.calls:
            assert offered
            assert (reading.text, reason) == ("", "tool_calls")
            continue
        documents += 1
        assert reason == "stop"
        assert list(json.loads(reading.text)) == ["name", "age"]
    assert documents >= len(SEEDS)
