"""The processes in which llguidance runs: `python -m actors.request.grammar.process`.

The first one loads the tokenizer and forks a process for every grammar that is to be compiled; that one forks a process
for every text that is generated under the grammar, which says after every token what may come next. So a fork begins
with everything that is ready, and the end of one, however it comes, is no other's.

The kernel ends a process at its bound: of processor time by a timer that runs while it works on an answer, of memory by
a limit on its address space. Each ends with the socket that it was given: the first of them with its owner.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import mmap
import os
import re
import resource
import signal
import socket
import struct
import sys
import traceback
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from actors.request.grammar.kinds import COMPACT_JSON, KINDS, GrammarKind, UnusableGrammar
from actors.request.grammar.wire import COMPILE, OPEN, TOKEN, Word, answer

LIMITS = LLParserLimits(verbose_errors=False)

_NO_TOKENIZER = -1
_TRIAL_NICENESS = 10
_BYTES = "byte"
_NAMED_TOKEN = re.compile(r"<\[[^\]\n]*\]>|<\|[^|>\n]*\|>")
_SOME_TOKEN = "<[5]>"
_FREE_ENOUGH = 0.75

Result = TypeVar("Result")


def main() -> None:
    control_fd, tokenizer_fd, vocab_size, eos_token_ids, memory_bytes = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person at the console means the owner
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if tokenizer_fd == _NO_TOKENIZER:
        os.nice(_TRIAL_NICENESS)  # no step of a model waits for it, and what is hostile shall keep nobody else waiting
        serve: Callable[..., None] = _Trial(memory_bytes).serve
    else:
        with open(tokenizer_fd, encoding="utf-8") as file:
            tokenizer = _tokenizer(file.read(), vocab_size, eos_token_ids or None)
        serve = partial(_serve_grammar, tokenizer, memory_bytes)
    gc.freeze()
    _fork_on_order(socket.socket(fileno=control_fd), COMPILE, serve)


def _tokenizer(source: str, vocab_size: int | None, eos_token_ids: list[int] | None) -> Any:
    """The library refuses ends that its tokenizer does not know, and fewer logits than the tokenizer has tokens."""
    try:
        return LLTokenizer(source, n_vocab=vocab_size, eos_token=eos_token_ids)
    except ValueError:
        known = int(LLTokenizer(source).vocab_size)
        ends = [token_id for token_id in eos_token_ids or () if token_id < known] or None
        return LLTokenizer(source, n_vocab=max(known, vocab_size or 0), eos_token=ends)


class _Trial:
    """Compiles without the tokenizer of a model, over bytes, as far as that shows whether a grammar can be used: one
    grammar after another in one process, until one has come to a bound, or has left too much memory behind."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._tokenizer = LLTokenizer(_BYTES)

    def serve(self, order: tuple[int, float, int], connection: socket.socket, file_fd: int) -> None:
        _be_quiet()
        limit_bytes = _limit_memory(self._memory_bytes)
        while True:
            answer(connection, Word.STARTED)
            _told_refusal(connection, partial(self._compile, *_source(order, file_fd)), order)
            data, descriptors, _, _ = socket.recv_fds(connection, COMPILE.size, 1)
            if not data or limit_bytes - _memory_bytes() < self._memory_bytes * _FREE_ENOUGH:
                return
            order, (file_fd,) = COMPILE.unpack(data), descriptors

    def _compile(self, kind: GrammarKind, source: str) -> None:
        grammar = llguidance_grammar(kind, source)
        if kind == "lark" and _NAMED_TOKEN.search(source):
            failed, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
            if failed:
                raise UnusableGrammar(str(messages[0]))
            # Which tokens a grammar names depends on the model; what it costs hardly does.
            grammar = llguidance_grammar(kind, _NAMED_TOKEN.sub(_SOME_TOKEN, source))
        _first_mask(self._tokenizer, grammar)


def _first_mask(tokenizer: Any, grammar: str) -> tuple[Any, bytes]:
    """A matcher, and which tokens it allows first: one bit for each, in 32-bit words."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    mask = b"" if matcher.is_error() else matcher.compute_bitmask()
    if matcher.is_error():
        raise UnusableGrammar(matcher.get_error())
    return matcher, mask[: -(-tokenizer.vocab_size // 32) * 4]  # it gives a word more than it takes below


def llguidance_grammar(kind: GrammarKind, source: str) -> str:
    """The grammar as llguidance's matchers take it; they may still refuse it.

    :raises UnusableGrammar: it is no text, or no JSON.
    """
    try:
        return _GRAMMARS[kind](source)
    except UnicodeEncodeError:
        raise UnusableGrammar("it holds half a surrogate pair, which is not valid text") from None
    except (ValueError, RecursionError) as error:
        raise UnusableGrammar(str(error)) from None


def _json_grammar(source: str) -> str:
    try:
        schema = json.loads(source)
    except ValueError as error:
        raise UnusableGrammar(f"it is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UnusableGrammar("it must be a JSON object")
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT_JSON))


_GRAMMARS: dict[GrammarKind, Callable[[str], str]] = {
    "json_schema": _json_grammar,
    "regex": LLMatcher.grammar_from_regex,
    "lark": LLMatcher.grammar_from_lark,
}


def _serve_grammar(
    tokenizer: Any, memory_bytes: int, order: tuple[int, float, int], connection: socket.socket, file_fd: int
) -> None:
    """In a grammar's process: compile it, and then open a process for each text."""
    answer(connection, Word.STARTED)
    _be_quiet()
    _limit_memory(memory_bytes)
    kind, source = _source(order, file_fd)
    compiled = _told_refusal(connection, lambda: _first_mask(tokenizer, llguidance_grammar(kind, source)), order)
    if compiled is not None:
        _fork_on_order(connection, OPEN, partial(_serve_text, *compiled))


def _source(order: tuple[int, float, int], file_fd: int) -> tuple[GrammarKind, str]:
    kind, _, size = order
    source = os.pread(file_fd, size, 0).decode(errors="surrogatepass")
    os.close(file_fd)
    return KINDS[kind], source


def _told_refusal(
    connection: socket.socket, compile_grammar: Callable[[], Result], order: tuple[int, float, int]
) -> Result | None:
    """Compile within the bounds and say how that went; None: it was refused."""
    try:
        with _ending_with(connection), _bounded(order[1]):
            result = compile_grammar()
    except UnusableGrammar as error:
        answer(connection, Word.REFUSED, str(error))
        return None
    answer(connection, Word.DONE)
    return result


def _serve_text(matcher: Any, mask: bytes, order: tuple[float, int], connection: socket.socket, mask_fd: int) -> None:
    """In a text's process: after every token, or after many at once, say whether it is allowed and the text complete,
    then that the next mask is written."""
    step_cpu_s, size = order
    memory = mmap.mmap(mask_fd, size)
    os.close(mask_fd)
    shown = min(size, len(mask))  # a tokenizer may know more tokens than the model has logits
    memory[:shown] = mask[:shown]
    found = memory if shown == len(mask) else bytearray(mask)
    address = ctypes.addressof(ctypes.c_char.from_buffer(found))
    answer(connection, Word.STOPPED if matcher.is_stopped() else Word.DONE)
    while True:
        data, descriptors, _, _ = socket.recv_fds(connection, TOKEN.size, 1, socket.MSG_WAITALL)
        if not data:
            return
        *before, token_id = _resumed_ids(data, descriptors[0]) if descriptors else TOKEN.unpack(data)
        for earlier_id in before:
            with _bounded(step_cpu_s):  # as much as when it was generated
                matcher.consume_token(earlier_id)
            if matcher.is_error():
                break
        with _bounded(step_cpu_s):
            if not matcher.is_error():
                matcher.consume_token(token_id)
            _answer_state(connection, matcher)
            if not matcher.is_error():
                matcher.unsafe_compute_mask_ptr(address, len(found))
                if found is not memory:
                    memory[:shown] = found[:shown]
            _answer_state(connection, matcher)


def _resumed_ids(data: bytes, file_fd: int) -> tuple[int, ...]:
    """The tokens of a completion that was begun before."""
    (count,) = TOKEN.unpack(data)
    ids = array("I", os.pread(file_fd, count * TOKEN.size, 0))
    os.close(file_fd)
    return tuple(ids)


def _answer_state(connection: socket.socket, matcher: Any) -> None:
    if matcher.is_error():
        answer(connection, Word.REFUSED, matcher.get_error())
    else:
        answer(connection, Word.STOPPED if matcher.is_stopped() else Word.DONE)


def _fork_on_order(control: socket.socket, order: struct.Struct, serve: Callable[..., None]) -> None:
    """Until whoever gives orders is gone."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, order.size, 2)
        if not data:
            return
        connection_fd, file_fd = descriptors
        if os.fork():
            os.close(connection_fd)
            os.close(file_fd)
            continue
        try:
            control.close()
            serve(order.unpack(data), socket.socket(fileno=connection_fd), file_fd)
        except (MemoryError, OSError):
            pass  # at its bound, or nobody is there to hear of it
        except BaseException:  # noqa: BLE001 - the edge of the process: nothing is above it
            traceback.print_exc()
        finally:
            os._exit(0)  # whoever waits for an answer sees the end of the socket


@contextmanager
def _bounded(cpu_s: float) -> Iterator[None]:
    """The kernel ends this process if it takes more time than that."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


@contextmanager
def _ending_with(connection: socket.socket) -> Iterator[None]:
    """The kernel ends this process as soon as the other end of the socket is closed. Nothing must be sent meanwhile."""
    descriptor = connection.fileno()
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _limit_memory(memory_bytes: int) -> int:
    size = _memory_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    return size


def _memory_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * mmap.PAGESIZE


def _be_quiet() -> None:
    """Rust says a word on stderr when it runs out of memory. What Python says there is still seen."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


if __name__ == "__main__":
    main()
