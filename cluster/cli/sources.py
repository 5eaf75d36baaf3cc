"""Where prompts come from: a file, or what can be read only once, such as standard input and pipes."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from actors import ConfigurationError

STANDARD_INPUT = Path("-")
MAX_PROMPT_BYTES = 16 * 1024 * 1024
MAX_KEPT_BYTES = 1024 * 1024 * 1024
"""Bound on prompts that can be read only once: they are kept in a temporary file."""
_PIECE_BYTES = 1024 * 1024


@contextmanager
def opened_source(path: Path) -> Iterator[tuple[TextIO, str]]:
    """Prompts as text that can be read from its beginning again and again, and their name for a person. A byte that is
    not UTF-8 is in it as the character that `bad_byte` finds.

    :raises ConfigurationError: it cannot be read, or is too long to be kept.
    """
    name = "standard input" if path == STANDARD_INPUT else str(path)
    with _opened(path, name) as found:
        if not stat.S_ISREG(os.fstat(found.fileno()).st_mode) or path == STANDARD_INPUT:
            with _kept(found, name) as copy:
                yield _as_text(copy), name
        else:
            yield _as_text(found), name


def read_prompt() -> str:
    """The whole of standard input, without the line break at its end.

    :raises ConfigurationError: it cannot be read, is too long, empty, or no text.
    """
    with _opened(STANDARD_INPUT, "standard input") as found:
        data = _read(found, MAX_PROMPT_BYTES + 1, "standard input")
    if len(data) > MAX_PROMPT_BYTES:
        raise ConfigurationError(f"Standard input is longer than {MAX_PROMPT_BYTES >> 20} MiB, too long for a prompt.")
    text = data.decode("utf-8-sig", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigurationError("Standard input holds no prompt.")
    require_utf8(text, "standard input")
    return text


def require_utf8(text: str, name: str) -> None:
    """:raises ConfigurationError: a byte of it was not UTF-8; it says which."""
    told = bad_byte(text)
    if told is not None:
        raise ConfigurationError(f"{name}: {told}.")


def bad_byte(text: str) -> str | None:
    """In a clause, the first byte that was not UTF-8 where `text` was read with `surrogateescape`; None: all were."""
    if text.isascii():
        return None
    place = next((place for place, character in enumerate(text) if "\udc80" <= character <= "\udcff"), None)
    if place is None:
        return None
    return f"byte {len(text[:place].encode()) + 1}, 0x{ord(text[place]) - 0xDC00:02x}, is not UTF-8"


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        if path == STANDARD_INPUT:
            if sys.stdin is None:
                raise ConfigurationError("Standard input is closed.")
            file = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: SIM115 - closed below
        else:
            file = path.open("rb")
    except (OSError, io.UnsupportedOperation) as error:
        raise ConfigurationError(f"Cannot read {name}: {error.strerror or error}.") from None
    with file:
        yield file


def _kept(found: BinaryIO, name: str) -> BinaryIO:
    """A copy in a temporary file that has no name, so that nothing of it stays whatever becomes of this process."""
    try:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        kept_bytes = 0
        while piece := _read(found, _PIECE_BYTES, name):
            kept_bytes += len(piece)
            if kept_bytes > MAX_KEPT_BYTES:
                raise ConfigurationError(
                    f"{name} can be read only once, and is longer than the {MAX_KEPT_BYTES / 2**30:g} GiB that are "
                    "kept of such prompts: write them to a file first."
                )
            copy.write(piece)
        copy.flush()
    except OSError as error:
        raise ConfigurationError(
            f"Cannot keep what {name} holds in {tempfile.gettempdir()}: {error.strerror or error}."
        ) from None
    return cast("BinaryIO", copy)


def _read(file: BinaryIO, size: int, name: str) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise ConfigurationError(f"Cannot read {name}: {error.strerror}.") from None


def _as_text(file: BinaryIO) -> TextIO:
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
