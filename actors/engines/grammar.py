"""Constrained output for any engine: which tokens of its vocabulary may come next under a grammar.

What a grammar is, and in which processes llguidance runs, is written in `actors.request.grammar`. An engine never
waits for one to be compiled: a job starts when its grammar is ready. For the next mask of a running job it waits, since
a batch moves together; the process behind it computes while the model does, and is ended at its bound.
"""

from __future__ import annotations

import mmap
import select
import socket
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from actors.errors import EngineFailure
from actors.request.grammar.host import GrammarHost, GrammarProcess, TooCostly, anonymous_file, send_order
from actors.request.grammar.kinds import (
    COMPILE_CPU_S,
    STEP_CPU_S,
    TOO_COSTLY,
    TOO_COSTLY_HERE,
    GrammarKind,
    UnusableGrammar,
    grammar_key,
    refusal,
    require_length,
)
from actors.request.grammar.wire import OPEN, TOKEN, Answers, ProcessEnded, Word

Words = NDArray[np.int32]

MAX_REFUSED = 1024
STEP_TIMEOUT_S = 5.0
"""Of wall time, for a process that gets no processor."""


class GrammarMask:
    """The state of one constrained completion.

    The mask has one bit per token id, the lowest bit of the first word for id 0, in `words_needed(vocab_size)` words.
    """

    def __init__(self, kind: GrammarKind, connection: socket.socket, memory: mmap.mmap, give_up: Callable[[], None]):
        """`give_up` hears that the grammar came to a bound."""
        self._kind = kind
        self._connection = connection
        self._words = np.frombuffer(memory, dtype=np.int32)
        self._give_up = give_up
        self._answers = Answers()
        self._owed: deque[bool] = deque([True])
        """Answers that are to come: whether one is about the text (it may be complete), or else about the mask."""
        self._complete = False
        self._failure: str | None = None
        """The reason, not an exception, whose traceback would hold the mask and with it the process."""

    def ready(self) -> bool:
        """Whether it can be asked at all: its process has begun. Does not wait.

        :raises InvalidRequest: the process has ended instead.
        """
        if self._owed and self._failure is None:
            try:
                self._answers.read(self._connection)
            except ProcessEnded:
                self._fail_at_bound()
            self._take()
        self._check()
        return not self._owed

    def allowed(self, words: Words) -> None:
        """Write which tokens may come next into `words` (contiguous).

        :raises InvalidRequest: the grammar turned out too complex for this text.
        """
        self._settle(0)
        words[:] = self._words[: len(words)]

    def feed(self, token_id: int) -> None:
        """Go on by one token, without waiting for what the grammar says to it."""
        if self._failure is None:
            self._owed += (True, False)
            try:
                self._connection.send(TOKEN.pack(token_id))
            except OSError:
                self._fail_at_bound()

    def resume(self, token_ids: Sequence[int]) -> None:
        """Go on by the tokens of a completion's beginning, many at once, without waiting for what the grammar says.

        So `ready`, `settle` or `allowed` raise if it does not allow them.
        """
        if not token_ids or self._failure is not None:
            return
        self._owed += (True, False)
        try:
            with anonymous_file() as file:
                file.write(array("I", token_ids).tobytes())
                file.flush()
                socket.send_fds(self._connection, [TOKEN.pack(len(token_ids))], [file.fileno()])
        except OSError:
            self._fail_at_bound()

    def accept(self, token_id: int) -> None:
        """Go on by one token.

        :raises InvalidRequest: the grammar does not allow it here.
        """
        self.feed(token_id)
        self.settle()

    def settle(self) -> None:
        """Wait for what the grammar says to the tokens that it was fed.

        :raises InvalidRequest: it does not allow one of them.
        """
        self._settle(1)

    @property
    def complete(self) -> bool:
        """Nothing but an end-of-sequence token can follow those that were settled."""
        return self._complete

    def fileno(self) -> int:
        return self._connection.fileno()

    def _settle(self, left: int) -> None:
        """Wait until no more than so many answers are owed, the last of which is about the mask."""
        if len(self._owed) > left and self._failure is None:
            self._wait(left)
        self._check()

    def _wait(self, left: int) -> None:
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        try:
            while len(self._owed) > left and self._failure is None:
                if not _readable([self], max(deadline_s - time.monotonic(), 0.0)):
                    self._fail(TOO_COSTLY_HERE)
                    return
                self._answers.read(self._connection)
                self._take()
        except ProcessEnded:
            self._fail_at_bound()

    def _take(self) -> None:
        while (given := self._answers.take()) is not None:
            about_text = self._owed.popleft()
            if given[0] is Word.REFUSED:
                self._fail(given[1])
                return
            if about_text:
                self._complete = given[0] is Word.STOPPED

    def _fail_at_bound(self) -> None:
        self._fail(TOO_COSTLY_HERE)
        self._give_up()

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise refusal(self._failure, param=self._kind)

    def close(self) -> None:
        """End its process; so does its collection."""
        self._connection.close()

    def __del__(self) -> None:
        self.close()


class WantedMask:
    """A mask whose grammar is being compiled."""

    def __init__(
        self,
        kind: GrammarKind,
        process: GrammarProcess,
        mask_bytes: int,
        forget: Callable[[str], None],
        resumed_ids: Sequence[int],
    ):
        """`forget` hears that the grammar cannot be used, and why."""
        self._kind = kind
        self._process = process
        self._mask_bytes = mask_bytes
        self._resumed_ids = resumed_ids
        self._forget = forget
        self._mask: GrammarMask | None = None

    def take(self) -> GrammarMask | None:
        """The mask, or None while it is not ready. Does not wait.

        :raises InvalidRequest: the grammar cannot be used; the message says why.
        :raises EngineFailure: the processes of grammars have ended; a next try may go well.
        """
        if self._mask is None:
            try:
                if not self._process.read():
                    return None
            except UnusableGrammar as error:
                reason = TOO_COSTLY if isinstance(error, TooCostly) else str(error)
                self._forget(reason)
                raise refusal(reason, param=self._kind) from None
            self._mask = self._open()
            self._mask.resume(self._resumed_ids)
        return self._mask if self._mask.ready() else None

    def fileno(self) -> int:
        return self._process.connection.fileno() if self._mask is None else self._mask.fileno()

    def _open(self) -> GrammarMask:
        with anonymous_file() as file:
            file.truncate(self._mask_bytes)
            memory = mmap.mmap(file.fileno(), self._mask_bytes)
            try:
                connection = send_order(self._process.connection, OPEN.pack(STEP_CPU_S, self._mask_bytes), file)
            except OSError:
                self._forget("")
                raise EngineFailure("The process of a grammar has ended.") from None
        return GrammarMask(self._kind, connection, memory, lambda: self._forget(TOO_COSTLY_HERE))


class Grammars:
    """The grammars of one tokenizer, each compiled once as long as it is among the last `max_cached` used.

    `vocab_size` is that of the model's logits, if larger than the tokenizer's; `eos_token_ids` end a completion, by
    default the tokenizer's own. To be used on one thread.
    """

    def __init__(
        self, tokenizer_json: str, *, vocab_size: int, eos_token_ids: Sequence[int] = (), max_cached: int = 16
    ) -> None:
        self._host = GrammarHost(tokenizer_json, vocab_size=vocab_size, eos_token_ids=eos_token_ids)
        self._mask_bytes = words_needed(vocab_size) * 4
        self._max_cached = max_cached
        self._processes: OrderedDict[bytes, GrammarProcess] = OrderedDict()
        self._refused: OrderedDict[bytes, str] = OrderedDict()

    def want(self, kind: GrammarKind, source: str, resumed_ids: Sequence[int] = ()) -> WantedMask:
        """A fresh state of the grammar, as soon as that is compiled and has gone over the tokens of a completion that
        is resumed; returns at once.

        :raises InvalidRequest: it is known that the grammar cannot be used; the message says why.
        """
        key = grammar_key(kind, source)
        reason = self._refused.get(key)
        if reason is not None:
            raise refusal(reason, param=kind)
        try:
            require_length(source)
        except UnusableGrammar as error:
            raise refusal(str(error), param=kind) from None
        process = self._processes.get(key)
        if process is None:
            process = self._processes[key] = self._host.compile(kind, source, cpu_s=COMPILE_CPU_S)
            if len(self._processes) > self._max_cached:
                self._processes.popitem(last=False)  # it ends when nobody waits for it any more
        self._processes.move_to_end(key)
        return WantedMask(
            kind, process, self._mask_bytes, lambda reason: self._forget(key, process, reason), resumed_ids
        )

    def mask(self, kind: GrammarKind, source: str, resumed_ids: Sequence[int] = ()) -> GrammarMask:
        """As `want`, and wait for it.

        :raises InvalidRequest: the grammar cannot be used; the message says why.
        """
        wanted = self.want(kind, source, resumed_ids)
        while (mask := wanted.take()) is None:
            wait_for([wanted])
        return mask

    def _forget(self, key: bytes, process: GrammarProcess, reason: str) -> None:
        """A process that is of no use any more; with a reason, neither is the grammar."""
        process.close()
        if self._processes.get(key) is process:
            del self._processes[key]
        if reason:
            self._refused[key] = reason
            if len(self._refused) > MAX_REFUSED:
                self._refused.popitem(last=False)

    def close(self) -> None:
        """End all processes but those of masks that somebody still holds."""
        self._processes.clear()
        self._host.close()


def wait_for(wanted: Iterable[WantedMask], timeout_s: float = STEP_TIMEOUT_S) -> None:
    """Wait until one of them may have become ready."""
    _readable(wanted, timeout_s)


def _readable(sources: Iterable[WantedMask | GrammarMask], timeout_s: float) -> bool:
    poll = select.poll()
    for source in sources:
        with suppress(ValueError):  # closed meanwhile
            poll.register(source.fileno(), select.POLLIN)
    return bool(poll.poll(timeout_s * 1000.0))


def words_needed(vocab_size: int) -> int:
    """32-bit words of a mask over `vocab_size` token ids."""
    return -(-vocab_size // 32)


def token_mask(words: Words, vocab_size: int) -> NDArray[np.bool_]:
    """A mask in words as one bool per token id."""
    return np.unpackbits(words.view(np.uint8), bitorder="little", count=vocab_size).view(np.bool_)
