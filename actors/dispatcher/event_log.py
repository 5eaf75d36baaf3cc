"""The scheduler's events as they come, in a file from which a run can be replayed."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TextIO

from actors.scheduling.config import SchedulerConfig
from actors.scheduling.events import Event
from actors.scheduling.recording import encode_event, encode_header

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 30
"""A log that has grown to this ends, with a line in the actor's log: a run is replayed from its beginning."""


class EventLog:
    """Writes `actors.scheduling.recording` lines. A disk that cannot take them ends the log, never the pool."""

    def __init__(self, directory: Path, pool: str, config: SchedulerConfig) -> None:
        """Begin a file in `directory`, which is made: each life of a dispatcher has its own."""
        self.path = directory / f"{pool}-{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns()}.events.jsonl"
        self._file: TextIO | None = None
        self._bytes = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="ascii")
        except OSError as error:
            logger.error("Events are not logged: %s: %s", self.path, error.strerror)
        self._write(encode_header(config))

    def record(self, now_s: float, event: Event) -> None:
        """Note an event. It reaches the disk with the next `flush`."""
        if self._file is not None:
            self._write(encode_event(now_s, event))

    def flush(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                self._end(str(error.strerror))

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        self._bytes += len(line) + 1
        try:
            self._file.write(line + "\n")
        except OSError as error:
            self._end(str(error.strerror))
        else:
            if self._bytes > MAX_BYTES:
                self._end(f"it has {self._bytes} bytes, which is the bound")

    def _end(self, reason: str) -> None:
        logger.error("The log of events %s ends: %s", self.path, reason)
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError:
            pass

    def __repr__(self) -> str:
        return f"<EventLog {self.path}: {self._bytes} bytes{'' if self._file else ', ended'}>"
