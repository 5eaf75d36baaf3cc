"""What goes between a process of grammars and whoever asks it.

Orders go with two descriptors: the socket on which the new process answers, and a file. Answers are a word and a text.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from enum import IntEnum

COMPILE = struct.Struct("<BdI")
"""To the first process: index of the grammar's kind, seconds of processor time, bytes of the grammar in the file."""
OPEN = struct.Struct("<dI")
"""To a grammar's process: seconds of processor time per step, bytes of the mask in the file."""
TOKEN = struct.Struct("<I")
"""To a text's process: the token that was chosen; or, with the descriptor of a file, how many tokens of a completion's
beginning stand in it, in the machine's order of bytes."""
_ANSWER = struct.Struct("<BI")
_READ_BYTES = 65536


class Word(IntEnum):
    STARTED = 0
    DONE = 1
    STOPPED = 2
    """Done, and nothing but an end may follow."""
    REFUSED = 3
    """The text says why."""


class ProcessEnded(Exception):
    """The other process is gone, and with it its answer."""


def answer(connection: socket.socket, word: Word, text: str = "") -> None:
    encoded = text.encode(errors="replace")
    connection.sendall(_ANSWER.pack(word, len(encoded)) + encoded)


class Answers:
    """Takes in what came over a socket, in whatever pieces."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Word, str]] = deque()
        self._bytes = b""

    def add(self, data: bytes) -> None:
        """:raises ProcessEnded: nothing more will come."""
        if not data:
            raise ProcessEnded
        self._bytes += data
        while len(self._bytes) >= _ANSWER.size:
            word, size = _ANSWER.unpack_from(self._bytes)
            end = _ANSWER.size + size
            if len(self._bytes) < end:
                return
            self._waiting.append((Word(word), self._bytes[_ANSWER.size : end].decode(errors="replace")))
            self._bytes = self._bytes[end:]

    def read(self, connection: socket.socket) -> None:
        """Take in what is there; on a socket that does not block.

        :raises ProcessEnded: nothing more will come.
        """
        try:
            data = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            raise ProcessEnded from None
        self.add(data)

    def take(self) -> tuple[Word, str] | None:
        """The next answer; None: it is not there yet."""
        return self._waiting.popleft() if self._waiting else None
