"""What happened to each request: a bounded diary."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_REQUESTS = 4_096
"""Requests whose story is kept; the one that was silent longest goes first."""
MAX_ENTRIES = 64
"""Lines kept of one request's story; the oldest go first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a story: `at_s` is the scheduler's clock."""

    at_s: float
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:.3f} s: {self.what}"


class Journal:
    """Keeps the latest entries of the latest requests."""

    def __init__(self, max_requests: int = MAX_REQUESTS) -> None:
        self._max_requests = max_requests
        self._entries: OrderedDict[str, list[tuple[float, str, tuple[object, ...]]]] = OrderedDict()

    def note(self, request_id: str, at_s: float, template: str, *values: object) -> None:
        """Add a line. It is formatted (`str.format`) only when somebody reads it."""
        lines = self._entries.get(request_id)
        if lines is None:
            lines = self._entries[request_id] = []
            if len(self._entries) > self._max_requests:
                self._entries.popitem(last=False)
        else:
            self._entries.move_to_end(request_id)
            if len(lines) == MAX_ENTRIES:
                del lines[0]
        lines.append((at_s, template, values))

    def story(self, request_id: str) -> tuple[Entry, ...]:
        """The lines of a request, oldest first; empty for one that nobody remembers."""
        return tuple(
            Entry(at_s, template.format(*values)) for at_s, template, values in self._entries.get(request_id, ())
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Journal of {len(self)} requests>"
