"""Grammars that are deep, wide, recursive, intersected or catastrophic, against bounds of time and memory."""

from __future__ import annotations

import select
import time
from contextlib import suppress
from functools import cache
from random import Random

import numpy as np
import psutil

from actors.builtin_model import builtin_model_path
from actors.engines.grammar import GrammarMask, Grammars, token_mask, words_needed
from actors.errors import InvalidRequest
from actors.request.grammar.host import GrammarHost, GrammarProcess, TooCostly
from actors.request.grammar.kinds import (
    COMPILE_CPU_S,
    MEMORY_BYTES,
    STEP_CPU_S,
    TOO_COSTLY,
    GrammarKind,
    UnusableGrammar,
)
from tests.fuzzing.grammar_cases import random_grammar

CLAIM = (
    "a grammar is compiled, or refused with a reason, within its bound of processor time and memory, as the front does "
    "it and as a worker does; so is every token; and an ordinary one goes through afterwards"
)

VOCAB_SIZE = 2048
STEPS = 40
SLACK_S = 0.5
"""Of processor time: what is done outside the bound, and how coarse the kernel counts."""
SLACK_BYTES = 64 * 1024 * 1024
WALL_LIMIT_S = 120.0
"""For a machine that is busy with other things; a bomb would take longer than anybody waits."""
ORDINARY = '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}}, "required": ["name"]}'


@cache
def front() -> GrammarHost:
    return GrammarHost()


@cache
def worker() -> Grammars:
    return Grammars((builtin_model_path() / "tokenizer.json").read_text(encoding="utf-8"), vocab_size=VOCAB_SIZE)


def try_case(random: Random) -> str:
    name, kind, source = random_grammar(random)
    told = _as_a_front(kind, source)
    _as_a_front("json_schema", ORDINARY, may_be_refused=False)
    if told == TOO_COSTLY:
        return f"{name} too costly"
    steps = _as_a_worker(kind, source, random)
    worker().mask("json_schema", ORDINARY).close()
    if told:
        return f"{name} refused"
    return f"{name} {'too costly at a step' if steps is None else 'compiled'}"


def _as_a_front(kind: GrammarKind, source: str, *, may_be_refused: bool = True) -> str:
    """Why the grammar is refused; empty: it is not."""
    process = front().compile(kind, source, cpu_s=COMPILE_CPU_S)
    watch = _Watch(process)
    try:
        while not process.read():
            watch.wait()
    except UnusableGrammar as error:
        if not may_be_refused:
            raise
        return TOO_COSTLY if isinstance(error, TooCostly) else str(error) or "without a reason"
    finally:
        process.close()
    return ""


class _Watch:
    """Looks at a process while somebody waits for it."""

    def __init__(self, process: GrammarProcess) -> None:
        self._socket = process.connection
        self._deadline_s = time.monotonic() + WALL_LIMIT_S
        self._begin_bytes: dict[int, int] = {}

    def wait(self) -> None:
        select.select([self._socket], [], [], 0.05)
        assert time.monotonic() < self._deadline_s, "nothing has ended it"
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "actors.request.grammar.process" not in " ".join(process.cmdline()):
                    continue
                begin_bytes = self._begin_bytes.setdefault(process.pid, process.memory_info().rss)
                grown_bytes = process.memory_info().rss - begin_bytes
                assert grown_bytes < MEMORY_BYTES + SLACK_BYTES, f"{grown_bytes} bytes"
                spent_s = process.cpu_times().user
                assert spent_s < COMPILE_CPU_S + SLACK_S or process.ppid() != front_pid(), f"{spent_s} s of processor"


def front_pid() -> int:
    process = front()._process
    assert process is not None
    return process.pid


def _as_a_worker(kind: GrammarKind, source: str, random: Random) -> int | None:
    """How many tokens were generated under the grammar; None: one came to a bound."""
    try:
        mask = worker().mask(kind, source)
    except InvalidRequest as error:
        _require_param(error, kind)
        return 0
    try:
        return _generate(mask, random)
    except InvalidRequest as error:
        _require_param(error, kind)
        return None
    finally:
        mask.close()


def _require_param(error: InvalidRequest, kind: GrammarKind) -> None:
    assert error.param == kind
    assert error.message.startswith(f"{kind} cannot be used: ")


def _generate(mask: GrammarMask, random: Random) -> int:
    words = np.zeros(words_needed(VOCAB_SIZE), np.int32)
    for step in range(STEPS):
        began_s = time.monotonic()
        mask.allowed(words)
        allowed = np.flatnonzero(token_mask(words, VOCAB_SIZE)).tolist()
        if mask.complete or not allowed:
            return step
        mask.accept(random.choice(allowed))
        assert time.monotonic() - began_s < STEP_CPU_S * WALL_LIMIT_S, "nothing has ended a step"
    return STEPS
