"""An engine in a process of its own, for engines that need the interpreter all the time.

ExLlamaV2 launches hundreds of kernels a step from Python. A thread of another kind in the same process, and Ray's
worker has several, takes the interpreter from it at every message: on an H100 one stream of an 8B model fell from 199
to 85 tokens/s. So the engine's thread gets a process without any other busy thread, and the actor talks to it through
a pair of sockets, in the words of `engine_thread`.

The process ends with its owner, however that ends; when it dies by itself, its owner hears of it as of any end.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from tempfile import TemporaryFile
from typing import Any

from actors.config import EngineConfig
from actors.engines.registry import create_engine, resolve_engine_name
from actors.errors import ExlpoolError, FatalEngineError, ModelError
from actors.messages import LoadProgress, WorkerLimits
from actors.worker.commands import Command, StepNews
from actors.worker.engine_jobs import portable
from actors.worker.engine_thread import EngineThread
from actors.worker.step_clock import CLOCK_BYTES, StepClock

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_EXIT_TIMEOUT_S = 10.0
_HOLD_THE_INTERPRETER = frozenset({"exllamav2"})


@dataclass(frozen=True, slots=True)
class _Ended:
    """The last word of the process."""

    failure: ExlpoolError | None


class EngineProcess:
    """As `EngineThread`, with the engine of `config` in a process of its own.

    Callbacks come on a thread of this process. `start` on a thread that lives as long as this process: on Linux the
    kernel ends the other one with it.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        on_progress: Callable[[LoadProgress], None],
        on_loaded: Callable[[WorkerLimits], None],
        on_news: Callable[[StepNews], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        self._config = config
        self._takers: dict[type, Callable[[Any], None]] = {
            LoadProgress: on_progress,
            WorkerLimits: on_loaded,
            StepNews: on_news,
        }
        self._on_end = on_end
        self._reader = threading.Thread(target=self._read, name="engine-news", daemon=True)
        self._sending = threading.Lock()
        self._loaded = False
        self._sent = 0
        self._unread_since_s = 0.0
        """When the first of the commands that were not taken up yet was sent, or one before it."""

    def start(self) -> None:
        self._connection, theirs = Pipe()
        with TemporaryFile() as file:
            file.write(bytes(CLOCK_BYTES))
            file.flush()
            self._clock = StepClock(file.fileno())
            self._clock.write(0, 0, None)
            descriptors = (theirs.fileno(), file.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *map(str, descriptors), str(os.getpid())],
                pass_fds=descriptors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        theirs.close()
        self._connection.send(self._config)
        self._reader.start()

    def send(self, command: Command) -> None:
        """Hand a command over; it takes effect before the next step."""
        with self._sending:
            if self._sent == self._clock.read().commands:
                self._unread_since_s = time.monotonic()
            self._sent += 1
            try:
                self._connection.send(command)
            except OSError:
                logger.warning("The engine's process is gone; a command is dropped, and the end is told by itself")

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the process; returns whether it ended."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(timeout_s)
        return not self._reader.is_alive()

    @property
    def steps(self) -> int:
        return self._clock.read().steps

    @property
    def turn_began_at_s(self) -> float | None:
        """time.monotonic() of the beginning of the latest turn; None while there is nothing to do. A process that was
        stopped while it waited does not take up what it was sent: then, since when it should have."""
        reading = self._clock.read()
        if reading.turn_began_at_s is None and self._loaded and self._sent > reading.commands:
            return max(self._unread_since_s, reading.written_at_s)
        return reading.turn_began_at_s

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        """Take in what the process says until its last word, or until it cannot be understood. Either is the end of
        the process: nobody would hear what it says after that."""
        failure: BaseException | None = None
        try:
            while not isinstance(message := self._connection.recv(), _Ended):
                if isinstance(message, WorkerLimits):  # what was sent until now had to wait for this
                    self._unread_since_s, self._loaded = time.monotonic(), True
                self._takers[type(message)](message)
            failure = message.failure
        except (EOFError, OSError):
            failure = FatalEngineError(f"The engine's process died ({_how(self._process)}).")
        except BaseException as error:
            logger.exception("What the engine's process said could not be taken in")
            failure = FatalEngineError(f"The engine's process cannot be understood: {type(error).__name__}: {error}")
        finally:
            if failure is not None:
                self._process.kill()
            self._on_end(failure)

    def __repr__(self) -> str:
        state = "not started" if not hasattr(self, "_process") else f"pid {self.pid}, {self.steps} steps"
        return f"<EngineProcess: {state}>"


def start_engine(
    config: EngineConfig,
    *,
    on_progress: Callable[[LoadProgress], None],
    on_loaded: Callable[[WorkerLimits], None],
    on_news: Callable[[StepNews], None],
    on_end: Callable[[BaseException | None], None],
) -> EngineThread | EngineProcess:
    """Run an engine where it runs best; callbacks come on other threads than the caller's."""
    engine: EngineThread | EngineProcess
    if _needs_own_process(config):
        engine = EngineProcess(config, on_progress=on_progress, on_loaded=on_loaded, on_news=on_news, on_end=on_end)
    else:
        engine = EngineThread(
            lambda: create_engine(config), on_progress=on_progress, on_loaded=on_loaded, on_news=on_news, on_end=on_end
        )
    engine.start()
    return engine


def _needs_own_process(config: EngineConfig) -> bool:
    try:
        name = resolve_engine_name(config)
    except ModelError:
        return False  # the thread will say so
    return name in _HOLD_THE_INTERPRETER or (name == "simulated" and config.simulated.own_process)


def _how(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(_EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "its connection is broken"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


class _ClockedThread(EngineThread):
    """Keeps the shared clock."""

    def __init__(self, clock: StepClock, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._clock = clock
        self._taken = 0

    def _begin_turn(self, now_s: float) -> None:
        super()._begin_turn(now_s)
        self._clock.write(self.steps, self._taken, now_s)

    def _end_turns(self) -> None:
        super()._end_turns()
        self._clock.write(self.steps, self._taken, None)

    def _waiting(self, first: Command | None) -> Iterator[Command]:
        for command in super()._waiting(first):
            self._taken += 1
            yield command


def _run(connection: Connection, clock: StepClock) -> None:
    """In the process: run the engine on its thread, read commands on this one."""
    config: EngineConfig = connection.recv()
    over = threading.Event()

    def end(failure: BaseException | None) -> None:
        try:
            with suppress(OSError):  # the owner may have gone before
                connection.send(_Ended(None if failure is None else portable(failure, "The engine failed")))
        finally:
            over.set()

    thread = _ClockedThread(
        clock,
        engine_factory=lambda: create_engine(config),
        on_progress=connection.send,
        on_loaded=connection.send,
        on_news=connection.send,
        on_end=end,
    )
    thread.start()
    threading.Thread(target=_read_commands, args=(connection, thread), daemon=True).start()
    over.wait()


def _read_commands(connection: Connection, thread: EngineThread) -> None:
    """Until the owner is gone, and nobody is left who could be told of anything; or until it cannot be understood, and
    would wait for what it asked for ever."""
    try:
        while True:
            thread.send(connection.recv())
    except (EOFError, OSError):
        os._exit(1)
    except BaseException:
        logger.exception("A command to the engine's process could not be read")
        os._exit(1)


def _end_with(owner_pid: int) -> None:
    """Have the kernel end this process with the thread that started it. Elsewhere the closed connection does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != owner_pid:
            os._exit(1)


def main() -> None:
    connection_fd, clock_fd, owner_pid = map(int, sys.argv[1:])
    _end_with(owner_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person at the console means the owner
    clock = StepClock(clock_fd)
    os.close(clock_fd)
    _run(Connection(connection_fd), clock)


if __name__ == "__main__":
    from actors.worker import engine_process

    engine_process.main()
