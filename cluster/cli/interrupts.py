"""What a signal does to the program: one line, an end in good order, and the exit status that shells expect.

The end depends on what there is to end. Before Ray is connected that is nothing, or a cluster that is just starting
for nobody but us: the process leaves at once, and takes along what it has started. Later `Interrupted` is raised in
the main thread, and the `with` blocks that it leaves close pools and servers. A thread watches over both: the main
thread may be in the midst of something that is not Python and takes seconds, and a closing may hang.

Imports nothing but the standard library's small modules, since it is there before everything else.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from cluster.cli.signal_actions import SignalActions
from cluster.processes import descendants, kill

STOP_WITHIN_S = 30.0
"""Time for an end in good order."""
TAKEN_WITHIN_S = 0.5
"""A main thread that runs Python takes a signal in this time."""
AGAIN_AFTER_S = 0.5
"""What comes sooner is the same signal again, by another way: from the terminal, and from whoever started us."""
STARTING_TICK_S = 0.02
RUNNING_TICK_S = 1.0
"""How often it is looked whether native code has taken our signals: it does so when Ray connects."""
_WORDS = {
    signal.SIGINT: "Interrupted.",
    signal.SIGTERM: "Terminated.",
    signal.SIGHUP: "Terminated: the terminal is gone.",
}
_SWALLOWED = 0
"""Stands among the signals that arrive: an `Interrupted` got lost."""
_SHOW_CURSOR = "\x1b[?25h\n"


_last_words = ""


def say_when_interrupted(words: str) -> None:
    """Have a signal that ends the program say this too, from now on."""
    global _last_words
    _last_words = words


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread by a signal that ends the program, once."""


class Interrupts:
    """The signals that end this process: `install` first, `settle` last."""

    def __init__(self) -> None:
        self.received: int | None = None
        """The signal that ends the program."""
        self._own = frozenset(number for number in _WORDS if signal.getsignal(number) is not signal.SIG_IGN)
        self._pid = os.getpid()
        self._received_s = 0.0
        self._raised = False
        self._in_hook = False
        self._taken = threading.Event()
        self._beginning = threading.RLock()  # a handler may come in the midst of a handler
        self._ending = False
        self._errors_fd = 2
        self._arrives = -1

    def install(self) -> None:
        """Catch signals from now on, to the end of the process. What was ignored stays so, as under `nohup`."""
        arrived, self._arrives = os.pipe()
        os.set_blocking(self._arrives, False)
        signal.set_wakeup_fd(self._arrives, warn_on_full_buffer=False)
        for number in self._own:
            signal.signal(number, self._handle)
        self._keep_handlers()
        sys.unraisablehook = self._unraisable
        actions = SignalActions(self._own)
        watch = threading.Thread(target=self._watch, args=(arrived, actions), name="exlpool: signals", daemon=True)
        watch.start()

    def settle(self) -> None:
        """End the process if a signal came, whatever the program made of it; else nothing."""
        if self.received is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            self._leave()

    def _keep_handlers(self) -> None:
        """Ray puts a handler for SIGTERM in the place of any that it finds, each time that it starts."""
        set_handler = signal.signal

        def set_other_handler(number: int, handler: Any) -> Any:
            return signal.getsignal(number) if number in self._own else set_handler(number, handler)

        signal.signal = set_other_handler  # type: ignore[assignment]

    def _handle(self, number: int, _: FrameType | None) -> None:
        """Called by the interpreter, in the main thread."""
        if os.getpid() != self._pid:
            return  # a child that is about to become another program: its parent was told too
        self._taken.set()
        self._begin(number)
        if not _ray_is_connected():
            self._leave()
        if self._in_hook:  # where it would be swallowed too
            os.write(self._arrives, bytes([_SWALLOWED]))
        elif not self._raised:
            self._raised = True
            raise Interrupted
        else:
            self._again()

    def _unraisable(self, unraisable: Any) -> None:
        """Called where an exception cannot go on, such as in `__del__`: one of ours is then raised once more."""
        if not issubclass(unraisable.exc_type, Interrupted):
            sys.__unraisablehook__(unraisable)
        elif self.received is not None:
            self._in_hook = True
            self._raised = False
            os.write(self._arrives, bytes([_SWALLOWED]))
            self._in_hook = False

    def _begin(self, number: int) -> None:
        """Say the one line. What others say after it, Ray of its own end above all, is of no use to anybody."""
        with self._beginning:
            if self.received is not None:
                return
            self.received = number
            self._received_s = time.monotonic()
            signal.alarm(0)  # Ray's own handler may have come first: it aborts after three seconds
            self._errors_fd = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
            self._say(f"{_WORDS[signal.Signals(number)]} {_last_words}".rstrip())

    def _say(self, words: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more
            on_terminal = os.isatty(self._errors_fd)
            os.write(self._errors_fd, f"{_SHOW_CURSOR if on_terminal else ''}{words}\n".encode())

    def _again(self) -> None:
        """Somebody does not want to wait."""
        if time.monotonic() - self._received_s > AGAIN_AFTER_S and not self._ending:
            self._ending = True
            self._say("Ended at once.")
            self._leave()

    def _leave(self) -> None:
        kill(descendants(self._pid))
        os._exit(128 + (self.received or 0))

    def _watch(self, arrived: int, actions: SignalActions) -> None:
        """On a thread of its own, to the end of the process."""
        number = None
        while number is None:
            connected = _ray_is_connected()
            actions.restore()  # after that question: what Ray did when it connected is undone at once
            number = self._next(arrived, RUNNING_TICK_S if connected else STARTING_TICK_S)
        if not self._taken.wait(TAKEN_WITHIN_S):
            self._begin(number)
            if not _ray_is_connected():
                self._leave()
        self._watch_end(arrived)

    def _watch_end(self, arrived: int) -> None:
        deadline_s = time.monotonic() + STOP_WITHIN_S
        sent_again = 0
        while (remaining_s := deadline_s - time.monotonic()) > 0:
            number = self._next(arrived, remaining_s)
            if number == _SWALLOWED and self.received is not None:
                sent_again += 1
                signal.pthread_kill(threading.main_thread().ident or 0, self.received)
            elif number is not None and sent_again:
                sent_again -= 1
            elif number is not None:
                self._again()
        self._say(f"Not ended in good order within {STOP_WITHIN_S:g} s: ended at once.")
        self._leave()

    def _next(self, arrived: int, timeout_s: float) -> int | None:
        """The next of our signals, as the interpreter notes it down, or `_SWALLOWED`; None: nothing in time."""
        if not select.select([arrived], [], [], timeout_s)[0]:
            return None
        number = os.read(arrived, 1)[0]
        return number if number in self._own or number == _SWALLOWED else None


def _ray_is_connected() -> bool:
    """Without importing it: whoever has not done so has nothing there."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)
    return is_initialized is not None and bool(is_initialized())
