"""A signal at any moment of a command: one line, nothing left, and the exit status that shells expect.

The moments are those of `tests.cluster.signal_sweep`, which goes through all of them by hand; here are the ones before
Ray runs, and one in the midst of its start. Later ones are in the tests of the commands.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.signal_sweep import SIMULATED, end_at
from tests.processes import marked, marked_environment

WORDS = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGHUP": "Terminated: the terminal is gone."}
SOON_S = 20.0


@pytest.mark.parametrize(
    ("name", "moment", "arguments"),
    [
        ("SIGINT", "import:cluster.cli.app", ("generate", "Hello")),
        ("SIGTERM", "import:ray", ("run", "prompts.txt")),
        ("SIGINT", "import:ray", ("serve",)),
        ("SIGHUP", "import:typer", ("models",)),
        ("SIGTERM", "before:cluster.cli.listing:_row", ("models",)),
    ],
)
def test_before_ray_runs_it_leaves_at_once(name: str, moment: str, arguments: tuple[str, ...], mark: str) -> None:
    ended = end_at(moment, name, arguments, mark)
    assert (ended.status, ended.errors, ended.out) == (128 + signal.Signals[name], [WORDS[name]], "")
    assert not marked(mark)


@pytest.mark.ray
def test_a_cluster_that_is_just_starting_goes_too(mark: str, eventually: Callable[..., None]) -> None:
    arguments = ("generate", "Hello", *SIMULATED)
    ended = end_at("after:ray._private.node:Node.start_gcs_server", "SIGTERM", arguments, mark)
    assert (ended.status, ended.errors, ended.out) == (143, ["Terminated."], "")
    eventually(lambda: not marked(mark), timeout_s=SOON_S)


PROGRAM = """
import ctypes, os, signal, subprocess, sys, time, types
from cluster.cli import interrupts
interrupts.STOP_WITHIN_S = {stop_within_s}
caught = interrupts.Interrupts()
caught.install()
sys.modules["ray"] = types.SimpleNamespace(is_initialized=lambda: {connected})
def send(name="SIGTERM"):
    os.kill(os.getpid(), getattr(signal, name))
def forever():
    print("ready", flush=True)
    while True:
        time.sleep(60)
try:
{body}
finally:
    caught.settle()
"""


def program(body: str, *, connected: bool = True, stop_within_s: float = 30.0) -> list[str]:
    """A program that catches signals, with a stand-in for Ray."""
    body = textwrap.indent(textwrap.dedent(body), "    ")
    return [sys.executable, "-c", PROGRAM.format(body=body, connected=connected, stop_within_s=stop_within_s)]


def run_with(body: str, **settings: Any) -> tuple[int, str, str]:
    """The program's status, and what it said on standard output and standard error."""
    done = subprocess.run(program(body, **settings), capture_output=True, text=True, timeout=SOON_S, check=False)
    return done.returncode, done.stdout, done.stderr


def test_blocks_are_left_in_good_order_once_ray_is_connected() -> None:
    body = """
    try:
        send()
        forever()
    finally:
        print("closed")
    """
    assert run_with(body) == (143, "closed\n", "Terminated.\n")


def test_what_others_say_of_the_end_is_not_heard() -> None:
    body = """
    try:
        send()
    finally:
        os.write(2, b"The raylet is dead!")
        raise OSError("gone")
    """
    assert run_with(body) == (143, "", "Terminated.\n")


def test_a_library_cannot_take_the_signals() -> None:
    body = """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
    send()
    forever()
    """
    assert run_with(body)[::2] == (143, "Terminated.\n")


def test_native_code_cannot_take_the_signals() -> None:
    """As Ray's core does: below Python, which hears nothing of it."""
    body = """
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGTERM, None)  # to the system's default, which ends the process in silence
    deadline_s = time.monotonic() + 15
    action = ctypes.create_string_buffer(1024)
    while not any(action.raw[:8]):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
        libc.sigaction(signal.SIGTERM, None, action)
    send()
    forever()
    """
    assert run_with(body)[::2] == (143, "Terminated.\n")


def test_an_interrupt_that_a_destructor_swallows_comes_again() -> None:
    body = """
    class Handle:
        def __del__(self):
            send()
            time.sleep(0)
    handle = Handle()
    del handle
    forever()
    """
    assert run_with(body)[::2] == (143, "Terminated.\n")


def test_one_that_is_swallowed_for_good_ends_at_the_deadline() -> None:
    body = """
    try:
        send()
    except BaseException:
        pass
    forever()
    """
    told = "Terminated.\nNot ended in good order within 0.5 s: ended at once.\n"
    assert run_with(body, stop_within_s=0.5) == (143, "ready\n", told)


def test_a_main_thread_in_native_code_holds_nothing_up() -> None:
    """It does not come back to Python, which alone could call the handler."""
    body = """
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    subprocess.Popen(["sh", "-c", f"kill -INT {os.getpid()}"])
    libc.pthread_mutex_lock(mutex)  # by the thread that has it: for ever, and no signal changes that
    """
    assert run_with(body, connected=False) == (130, "", "Interrupted.\n")


def test_a_second_signal_ends_at_once() -> None:
    body = """
    try:
        forever()
    finally:
        forever()
    """
    process = subprocess.Popen(program(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "Interrupted.\n"
        assert process.stdout.readline() == "ready\n"
        deadline_s = time.monotonic() + SOON_S
        while process.poll() is None and time.monotonic() < deadline_s:
            process.send_signal(signal.SIGINT)  # the first ones are taken for the same signal again
            time.sleep(0.1)
        assert process.wait(SOON_S) == 130
        assert process.stderr.read() == "Ended at once.\n"
    finally:
        process.kill()
        process.communicate()


def test_what_it_started_goes_along(mark: str, eventually: Callable[..., None]) -> None:
    """Children of children too, which Ray's workers are."""
    body = """
    child = subprocess.Popen(["sh", "-c", "sleep 60 & echo ready; wait"], stdout=subprocess.PIPE)
    child.stdout.readline()
    send()
    """
    command = program(body, connected=False)
    done = subprocess.run(command, env=marked_environment(mark), timeout=SOON_S, capture_output=True, check=False)
    assert done.returncode == 143
    eventually(lambda: not marked(mark), timeout_s=SOON_S)


def test_what_was_ignored_stays_so() -> None:
    """As under `nohup`, and as a shell does for what runs in the background."""
    command = program("send('SIGHUP')\nprint('goes on')", connected=False)
    done = subprocess.run(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command],
        timeout=SOON_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")
