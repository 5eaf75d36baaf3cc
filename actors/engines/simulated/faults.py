"""Faults that the simulated engine commits when its options say so: what is built round an engine is tried on them."""

from __future__ import annotations

import os
import threading

from actors.config import SimulatedOptions
from actors.errors import FatalEngineError

STALL_S = 86400.0
"""How long a hang lasts: longer than anybody waits, and still bounded."""


class ScriptedFaults:
    """Told of each point of an engine's life, it does there what the options ask for, and nothing otherwise.

    Where several faults are due at one step, the gentlest comes first: raise, raise for good, end, hang.
    """

    def __init__(self, options: SimulatedOptions) -> None:
        self._options = options

    def at_submit(self, first_token: int) -> None:
        """A job whose prompt begins with `first_token` was checked and is about to be queued."""
        if first_token == self._options.stall_submit_at_token:
            _hang()

    def at_step(self, step: int) -> None:
        """Step `step` begins, counted from 1 over the engine's life, resets included.

        :raises RuntimeError: fail_at_step.
        :raises FatalEngineError: fatal_at_step.
        """
        options = self._options
        if step == options.fail_at_step:
            raise RuntimeError(f"The simulated engine was told to fail in step {step}.")
        if step == options.fatal_at_step:
            raise FatalEngineError(f"The simulated engine was told to be beyond repair in step {step}.")
        if step == options.exit_at_step:
            os._exit(1)
        if step == options.stall_at_step:
            _hang()

    def at_start(self, first_token: int) -> None:
        """A job whose prompt begins with `first_token` is about to start.

        :raises RuntimeError: fail_at_token.
        """
        if first_token == self._options.fail_at_token:
            raise RuntimeError(f"The simulated engine was told to fail at token {first_token}.")
        if first_token == self._options.exit_at_token:
            os._exit(1)

    def at_reset(self) -> None:
        """:raises RuntimeError: fail_reset."""
        if self._options.fail_reset:
            raise RuntimeError("The simulated engine was told to fail when it is reset.")

    def at_close(self) -> None:
        """:raises RuntimeError: fail_close."""
        if self._options.fail_close:
            raise RuntimeError("The simulated engine was told to fail when it is closed.")


def _hang() -> None:
    threading.Event().wait(STALL_S)
