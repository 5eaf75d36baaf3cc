"""The owner's side of the processes in which grammars are compiled (`process.py`). Nothing here waits for them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from tempfile import TemporaryFile
from typing import IO

from actors.errors import EngineFailure
from actors.request.grammar.kinds import KINDS, MEMORY_BYTES, GrammarKind, UnusableGrammar
from actors.request.grammar.wire import COMPILE, Answers, ProcessEnded, Word

_NO_TOKENIZER = -1
_EXIT_TIMEOUT_S = 5.0


class TooCostly(UnusableGrammar):
    """The process of a grammar came to a bound, and was ended."""


class GrammarHost:
    """Starts a process for every grammar, and before the first one the process that they are forked from.

    Without a tokenizer they only tell whether a grammar can be used at all. Not safe from several threads at once.
    """

    def __init__(
        self,
        tokenizer_json: str | None = None,
        *,
        vocab_size: int | None = None,
        eos_token_ids: Sequence[int] = (),
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def started(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the first process, unless it runs; takes a few milliseconds. `compile` does it where it is needed."""
        if self.started:
            return
        self.close()
        self._control, theirs = socket.socketpair()
        with theirs, anonymous_file() as file:
            passed = [theirs.fileno()]
            if self._tokenizer_json is not None:
                file.write(self._tokenizer_json.encode())
                file.seek(0)  # written out and back at the beginning
                passed.append(file.fileno())
            tokenizer_fd = passed[1] if len(passed) > 1 else _NO_TOKENIZER
            arguments = [theirs.fileno(), tokenizer_fd, self._vocab_size, self._eos_token_ids, self._memory_bytes]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "actors.request.grammar.process", json.dumps(arguments)],
                pass_fds=passed,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        self._control.setblocking(False)

    def compile(self, kind: GrammarKind, source: str, *, cpu_s: float) -> GrammarProcess:
        """Begin to compile a grammar; returns at once.

        :raises EngineFailure: no process can be started.
        """
        with _written(source) as file:
            order = COMPILE.pack(KINDS.index(kind), cpu_s, os.fstat(file.fileno()).st_size)
            for _ in range(2):  # the first process may have ended, and nobody noticed
                self.start()
                assert self._control is not None, "it was started"
                with suppress(BrokenPipeError, ConnectionResetError):
                    return GrammarProcess(send_order(self._control, order, file))
                self.close()
        raise EngineFailure("The process that compiles grammars cannot be kept up.")

    def close(self) -> None:
        """End the processes; those of running texts end with their own sockets. `compile` starts them again."""
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait(_EXIT_TIMEOUT_S)

    def __repr__(self) -> str:
        return f"<GrammarHost: {f'pid {self._process.pid}' if self.started and self._process else 'not started'}>"


class GrammarProcess:
    """The process of one grammar. Closing its socket ends it, whatever it is doing; so does its collection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._answers = Answers()
        self._started = False
        self._failure: Callable[[], Exception] | None = None
        """What makes it: one that was raised would hold this process, and whoever raised it, in its traceback."""
        self.compiled = False

    def compile_next(self, kind: GrammarKind, source: str, *, cpu_s: float) -> None:
        """Compile another grammar; of a host without a tokenizer.

        :raises EngineFailure: the process has ended.
        """
        self._started = self.compiled = False
        self._failure = None
        with _written(source) as file:
            order = COMPILE.pack(KINDS.index(kind), cpu_s, os.fstat(file.fileno()).st_size)
            try:
                socket.send_fds(self.connection, [order], [file.fileno()])
            except OSError:
                raise EngineFailure("The process that compiles grammars has ended.") from None

    def read(self) -> bool:
        """Take in what has come; returns whether the grammar is compiled.

        :raises UnusableGrammar: it cannot be; `TooCostly` where it came to a bound.
        :raises EngineFailure: the processes of grammars have ended; a next try may go well.
        """
        if not self.compiled and self._failure is None:
            with suppress(ProcessEnded):
                self._answers.read(self.connection)
                return self._judge()
            self._ended()
        if self._failure is not None:
            raise self._failure()
        return self.compiled

    def add(self, data: bytes) -> bool:
        """As `read`, with bytes that somebody else has read."""
        try:
            self._answers.add(data)
        except ProcessEnded:
            self._ended()
        return self._judge()

    def _judge(self) -> bool:
        while (given := self._answers.take()) is not None:
            word, text = given
            match word:
                case Word.STARTED:
                    self._started = True
                case Word.REFUSED:
                    self._failure = partial(UnusableGrammar, text)
                case _:
                    self.compiled = True
        if self._failure is not None:
            raise self._failure()
        return self.compiled

    def _ended(self) -> None:
        if self._started:
            self._failure = TooCostly
        else:
            self._failure = partial(EngineFailure, "The process that compiles grammars has ended.")

    def close(self) -> None:
        self.connection.close()

    def __del__(self) -> None:
        self.close()


def send_order(control: socket.socket, order: bytes, file: IO[bytes]) -> socket.socket:
    """Have a process forked; returns the socket to it, which does not block.

    :raises OSError: whoever should fork it is gone, or does not come round to it.
    """
    ours, theirs = socket.socketpair()
    try:
        socket.send_fds(control, [order], [theirs.fileno(), file.fileno()])
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    return ours


def _written(source: str) -> IO[bytes]:
    file = anonymous_file()
    file.write(source.encode(errors="surrogatepass"))
    file.flush()
    return file


def anonymous_file() -> IO[bytes]:
    """A file to hand to another process, in memory where the system knows such."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("grammar"), "w+b")
    return TemporaryFile()
