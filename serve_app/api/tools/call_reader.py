"""Reads one call, a JSON object with a name and arguments, while its text arrives."""

from __future__ import annotations

from collections.abc import Callable

from serve_app.api.tools.json_tokens import NotACall, ObjectScanner, decoded, scalar_end

JSON_SPACE = " \t\r\n"
_ARGUMENT_KEYS = ("arguments", "parameters")


class CallReader:
    """A call has `begun` once its name is one of `names` and its arguments have opened, in whichever order they stand.

    Other keys may hold strings, numbers and the like, and are skipped. A last brace that is missing is forgiven.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.name: str | None = None
        self.begun = False
        self.complete = False
        """Its arguments have been read to their last brace."""
        self.ended = False
        """Nothing more of it is to be read."""
        self.rest = ""
        """What has not been read."""
        self._names = names
        self._step: Callable[[], bool] = self._read_open
        self._key = ""
        self._scanner: ObjectScanner | None = None
        self._withheld: list[str] = []
        self._arguments: list[str] = []

    @property
    def withheld(self) -> str:
        """What was read since the beginning, or, once the call has begun, since then beside its arguments."""
        return "".join(self._withheld)

    def push(self, text: str) -> None:
        """Read on, as far as it is clear what the text is.

        :raises NotACall: it is no call, or no longer one; `rest` begins with what shows it.
        """
        self.rest += text
        while self.rest and not self.ended:
            if self._step != self._read_arguments:
                self._withhold(len(self.rest) - len(self.rest.lstrip(JSON_SPACE)))
            if not self.rest or not self._step():
                break

    def take_arguments(self) -> str:
        """What is new of the arguments; nothing before the call has begun."""
        if not self.begun:
            return ""
        taken, self._arguments = self._arguments, []
        return "".join(taken)

    def _withhold(self, count: int) -> None:
        self._withheld.append(self.rest[:count])
        self.rest = self.rest[count:]

    def _read_mark(self, mark: str, then: Callable[[], bool]) -> bool:
        if not self.rest.startswith(mark):
            raise NotACall
        self._withhold(1)
        self._step = then
        return True

    def _read_open(self) -> bool:
        return self._read_mark("{", self._read_key)

    def _read_key(self) -> bool:
        if self.rest.startswith("}"):
            return self._close()
        if not self.rest.startswith('"'):
            raise NotACall
        end = scalar_end(self.rest)
        if end is None:
            return False
        self._key = str(decoded(self.rest[:end]))
        self._withhold(end)
        self._step = self._read_colon
        return True

    def _read_colon(self) -> bool:
        return self._read_mark(":", self._read_value)

    def _read_value(self) -> bool:
        if self._key in _ARGUMENT_KEYS and self._scanner is None and self.rest.startswith("{"):
            self._scanner = ObjectScanner()
            self._begin_if_known()
            self._step = self._read_arguments
            return True
        end = scalar_end(self.rest)
        if end is None:
            return False
        value = decoded(self.rest[:end])
        if self._key == "name" and not self.begun:
            if value not in self._names:
                raise NotACall
            self.name = value
        self._withhold(end)
        self._begin_if_known()
        self._step = self._read_next
        return True

    def _begin_if_known(self) -> None:
        if self.name is not None and self._scanner is not None and not self.begun:
            self.begun = True
            self._withheld.clear()

    def _read_arguments(self) -> bool:
        assert self._scanner is not None
        end = self._scanner.find_end(self.rest)
        taken = self.rest[:end]
        self._arguments.append(taken)
        if not self.begun:
            self._withheld.append(taken)
        self.rest = self.rest[len(taken) :]
        if end is None:
            return False
        self.complete = not self._scanner.broken
        if self._scanner.broken and not self.begun:
            raise NotACall
        self.ended = self._scanner.broken
        self._step = self._read_next
        return True

    def _read_next(self) -> bool:
        if self.rest.startswith("}"):
            return self._close()
        if self.begun and not self.rest.startswith(","):
            self.ended = True
            return True
        return self._read_mark(",", self._read_key)

    def _close(self) -> bool:
        """The object ends. Without arguments it is a call with none."""
        if self.name is None:
            raise NotACall
        if self._scanner is None:
            self._arguments.append("{}")
            self.begun = self.complete = True
        self._withhold(1)
        self.ended = True
        return True
