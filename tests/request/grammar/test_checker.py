"""The front refuses exactly the grammars that an engine would refuse, within bounds of time and memory, and remembers
its answers."""

from __future__ import annotations

import asyncio
import json
import secrets
import select
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from actors.builtin_model import builtin_model_path
from actors.engines.grammar import Grammars
from actors.errors import InvalidRequest, Overloaded, PoolClosed
from actors.request.grammar import checker as checker_module
from actors.request.grammar.checker import GrammarChecker
from actors.request.grammar.host import GrammarHost, TooCostly
from actors.request.grammar.kinds import MAX_GRAMMAR_CHARACTERS, GrammarKind
from tests.bombs import BOMBS, ENDLESS_SCHEMA
from tests.processes import MARK_NAME, marked

CASES: list[tuple[GrammarKind, str]] = [
    ("regex", "(yes|no)"),
    ("regex", ""),
    ("regex", "(ab"),
    ("regex", "(?=a)b"),
    ("regex", "\ud800"),
    ("regex", "a" * (MAX_GRAMMAR_CHARACTERS + 1)),
    ("lark", 'start: "a" "b"* "!"'),
    ("lark", ""),
    ("lark", "start: nowhere"),
    ("lark", 'start: "a'),
    ("lark", 'start: "\ud800"'),
    ("lark", 'start: %json {"type": "objct"}'),
    ("lark", "start: <[5]>"),
    ("json_schema", "{}"),
    ("json_schema", '{"type": "object"}'),
    ("json_schema", '{"$ref": "#/$defs/N", "$defs": {"N": {"properties": {"n": {"$ref": "#/$defs/N"}}}}}'),
    ("json_schema", '{"title": "T", "description": "d", "default": 1, "examples": [1], "type": "integer"}'),
    ("json_schema", "{"),
    ("json_schema", "[]"),
    ("json_schema", "true"),
    ("json_schema", '{"type": "objct"}'),
    ("json_schema", '{"type": "array", "uniqueItems": true}'),
    ("json_schema", '{"$ref": "#/nowhere"}'),
    ("json_schema", '{"enum": []}'),
    ("json_schema", '{"not": {}}'),
    ("json_schema", '{"type": "number", "minimum": NaN}'),
    ("json_schema", '{"type": "string", "maxLength": 1e400}'),
    ("json_schema", '{"type": "string", "minLength": 5, "maxLength": 2}'),
    ("json_schema", '{"const": "\\ud800"}'),
    ("json_schema", '{"items": ' * 5000 + "{}" + "}" * 5000),
    ("json_schema", '{"oneOf": [{"type": "string"}, {"type": "integer"}]}'),
    ("json_schema", '{"oneOf": [{"minLength": 1}, {"maxLength": 5}]}'),
]


DEADLINE_S = 60.0


async def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def grammars() -> Iterator[Grammars]:
    grammars = Grammars((builtin_model_path() / "tokenizer.json").read_text(encoding="utf-8"), vocab_size=2048)
    grammars.mask("regex", "a")  # its processes are there before a test marks its own
    yield grammars
    grammars.close()


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the processes that the test's checker starts."""
    mark = secrets.token_hex(8)
    monkeypatch.setenv(MARK_NAME, mark)
    return mark


@pytest_asyncio.fixture
async def checker(mark: str) -> AsyncIterator[GrammarChecker]:
    checker = GrammarChecker()
    yield checker
    checker.close()
    await until(lambda: not marked(mark))


@pytest.fixture
def low_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes for ever takes more than these, too."""
    monkeypatch.setattr(checker_module, "QUICK_CPU_S", 0.1)
    monkeypatch.setattr(checker_module, "COMPILE_CPU_S", 0.3)


async def told(checker: GrammarChecker, kind: GrammarKind, source: str, param: str = "p") -> str | None:
    try:
        await checker.check(kind, source, param=param)
    except InvalidRequest as error:
        return error.message
    return None


async def test_an_api_refuses_what_an_engine_refuses_in_the_same_words(
    grammars: Grammars, checker: GrammarChecker
) -> None:
    for kind, source in CASES:
        expected = None
        try:
            grammars.mask(kind, source)
        except InvalidRequest as error:
            expected = error.message
        assert await told(checker, kind, source, kind) == expected, (kind, source[:80])


async def test_the_message_is_one_sentence_with_the_reason(checker: GrammarChecker) -> None:
    with pytest.raises(InvalidRequest, match=r"^It cannot be used: unclosed group\.$") as caught:
        await checker.check("regex", "(ab", param="guided_regex", subject="It")
    assert caught.value.param == "guided_regex"
    message = await told(checker, "lark", "start: " + "x" * 2000)
    assert message is not None
    assert len(message) < 500
    assert "\n" not in message


async def test_one_source_may_be_good_as_one_kind_only(checker: GrammarChecker) -> None:
    source = json.dumps({"type": "object"})
    assert await told(checker, "json_schema", source) is None
    assert await told(checker, "lark", source) == await told(checker, "lark", source)
    assert await told(checker, "regex", "start: x") is None
    assert await told(checker, "lark", "start: x") is not None


async def test_tokens_may_be_named_though_the_front_has_none(checker: GrammarChecker) -> None:
    assert await told(checker, "lark", 'start: <[128010]> "a" <|python_tag|> <[5-9,11]>') is None


@pytest.mark.parametrize("name", BOMBS)
async def test_what_takes_for_ever_is_refused_at_the_bound_and_then_known(
    checker: GrammarChecker, low_bounds: None, name: str
) -> None:
    kind, source = BOMBS[name]
    async with asyncio.timeout(DEADLINE_S):
        first = await told(checker, kind, source)
        assert first is not None
        assert "more than 3 s or 256 MiB to compile" in first
        checker.close()  # what is known needs no process
        assert await told(checker, kind, source) == first
        with pytest.raises(PoolClosed):
            await checker.check("regex", "new", param="p")


def test_memory_is_bounded_too() -> None:
    host = GrammarHost(memory_bytes=32 * 1024 * 1024)
    process = host.compile("json_schema", ENDLESS_SCHEMA, cpu_s=3600.0)
    deadline_s = time.monotonic() + DEADLINE_S

    def compiled() -> bool:
        while not process.read():
            assert time.monotonic() < deadline_s
            select.select([process.connection], [], [], 1.0)
        return True

    with pytest.raises(TooCostly):
        compiled()
    host.close()


async def test_others_do_not_wait_for_bombs(checker: GrammarChecker) -> None:
    bombs = [
        asyncio.ensure_future(told(checker, "json_schema", ENDLESS_SCHEMA.replace("a0", f"b{number}")))
        for number in range(4)
    ]
    async with asyncio.timeout(DEADLINE_S):
        for number in range(5):
            assert await told(checker, "regex", f"a{number}") is None
        assert not any(bomb.done() for bomb in bombs), "the quick lanes did not wait for the slow one"
    for bomb in bombs:
        bomb.cancel()
    await asyncio.gather(*bombs, return_exceptions=True)


async def test_whoever_goes_away_takes_the_process_along(
    checker: GrammarChecker, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker_module, "QUICK_CPU_S", 3600.0)
    assert await told(checker, "regex", "a") is None
    checker._kept.clear()
    await until(lambda: len(marked(mark)) == 1)
    checking = asyncio.ensure_future(told(checker, "json_schema", ENDLESS_SCHEMA))
    await until(lambda: len(marked(mark)) == 2)
    checking.cancel()
    await until(lambda: len(marked(mark)) == 1)


async def test_too_many_at_once_are_refused_for_now(checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker_module, "MAX_WAITING", 2)
    asked = [asyncio.ensure_future(checker.check("regex", f"a{number}", param="p")) for number in range(5)]
    async with asyncio.timeout(DEADLINE_S):
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 2 + [Overloaded] * 3


async def test_answers_are_remembered_within_bounds(checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker_module, "MAX_REMEMBERED", 2)
    for source in ("a", "(", "a", "(", "b", "a"):
        assert (await told(checker, "regex", source) is not None) == (source == "(")
    assert len(checker._faults) == 2
    assert all(len(key) == 32 for key in checker._faults)


async def test_processes_that_were_killed_come_back(checker: GrammarChecker, mark: str) -> None:
    assert await told(checker, "regex", "a") is None
    for process in marked(mark):
        process.kill()
    await until(lambda: not marked(mark))
    assert await told(checker, "regex", "b") is None
    assert await told(checker, "regex", "(") is not None
