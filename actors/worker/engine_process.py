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
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
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

logger = logging.getLogger(__name__)

_CLOCK = struct.Struct("=qd")
_BETWEEN_STEPS = -1.0
_PR_SET_PDEATHSIG = 1
_EXIT_TIMEOUT_S = 10.0
_HOLD_THE_INTERPRETER = frozenset({"exllamav2"})


@dataclass(frozen=True, slots=True)
class _Ended:
    """The last word of the process."""

    failure: ExlpoolError | None


class StepClock:
    """Steps done, and since when the current one has been going on, in memory that both processes see."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _CLOCK.size)

    def write(self, steps: int, started_at_s: float | None) -> None:
        _CLOCK.pack_into(self._memory, 0, steps, _BETWEEN_STEPS if started_at_s is None else started_at_s)

    def read(self) -> tuple[int, float | None]:
        steps, started_at_s = _CLOCK.unpack_from(self._memory)
        return steps, None if started_at_s == _BETWEEN_STEPS else started_at_s


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

    def start(self) -> None:
        self._connection, theirs = Pipe()
        with TemporaryFile() as file:
            file.write(bytes(_CLOCK.size))
            file.flush()
            self._clock = StepClock(file.fileno())
            self._clock.write(0, None)
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
        return self._clock.read()[0]

    @property
    def turn_began_at_s(self) -> float | None:
        """time.monotonic() of the step that is going on; None between steps."""
        return self._clock.read()[1]

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        """Take in what the process says until its last word, or until it cannot be understood. Either is the end of
        the process: nobody would hear what it says after that."""
        failure: BaseException | None = None
        try:
            while not isinstance(message := self._connection.recv(), _Ended):
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
        return resolve_engine_name(config) in _HOLD_THE_INTERPRETER
    except ModelError:
        return False  # the thread will say so


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

    def _begin_turn(self, now_s: float) -> None:
        super()._begin_turn(now_s)
        self._clock.write(self.steps, now_s)

    def _end_turn(self) -> None:
        super()._end_turn()
        self._clock.write(self.steps, None)


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
