"""Send a signal to a command at a moment of its own life, not after a time.

`python -m tests.cluster.moments SIGTERM import:ray -- generate Hello` runs `exlpool generate Hello`, which gets the
signal while it looks for the module `ray`. Further moments are `before:MODULE:NAME` and `after:MODULE:NAME`, a call of
a function or method of a module. The signal goes to the whole process group, as from a terminal; the command should
have one of its own.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


class Moment(importlib.abc.MetaPathFinder):
    """Sends a signal once, when a module is looked for, or a function of it is called or has returned."""

    def __init__(self, words: str, number: signal.Signals) -> None:
        self._kind, self._module, self._function = (*words.split(":"), "")[:3]
        self._number = number
        self._done = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module or self._done:
            return None
        self._done = True
        if self._kind == "import":
            self._send()
            return None
        spec = importlib.util.find_spec(fullname)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_wrap(module: ModuleType) -> None:
            execute(module)
            self._wrap(module)

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec

    def _wrap(self, module: ModuleType) -> None:
        holder: Any = module
        *holders, name = self._function.split(".")
        for part in holders:
            holder = getattr(holder, part)
        function: Callable[..., Any] = getattr(holder, name)

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if self._kind == "before":
                self._send()
            result = function(*arguments, **options)
            if self._kind == "after":
                self._send()
            return result

        setattr(holder, name, call)

    def _send(self) -> None:
        number, self._number = self._number, signal.Signals.SIGURG  # which means nothing
        os.killpg(0, number)


def main() -> None:
    name, moment, separator, *arguments = sys.argv[1:]
    assert separator == "--"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a shell starts it, whoever runs the tests
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    sys.meta_path.insert(0, Moment(moment, signal.Signals[name]))
    sys.argv = ["exlpool", *arguments]
    from cluster.cli import main as run

    run()


if __name__ == "__main__":
    main()
