"""A file that is changed by putting a new one in its place, by one process at a time.

The new file is the lock at the same time: it lies beside the old one, as `.NAME.new`, and whoever holds a lock on it
may write it. It goes with its rename, or with a change that came to nothing; one that a killed process left behind is
locked by nobody, and the next change takes it over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from actors.errors import ConfigurationError

LOCK_TIMEOUT_S = 10.0
LOCK_POLL_S = 0.02
OWNERS_ONLY = 0o600


class ReplacedFile:
    """While it is entered, nobody else is who changes the file this way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = path.with_name(f".{path.name}.new")
        self._handle = -1
        self._replaced = False

    def __enter__(self) -> Self:
        """:raises ConfigurationError: somebody else held the lock all the time, or owns the file that it lies on.
        :raises OSError: there is no place for it.
        """
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        while not self._lock():
            if time.monotonic() > deadline_s:
                raise ConfigurationError(
                    f"Another process has been changing {self.path} for {LOCK_TIMEOUT_S:g} s; try again.",
                    param="keys_file",
                )
            time.sleep(LOCK_POLL_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if not self._replaced:
                self._new.unlink(missing_ok=True)  # still locked, so nobody else has begun with it
        finally:
            os.close(self._handle)

    def replace(self, content: bytes) -> None:
        """Put a file with this content in place of the old one, of the same owner and mode; where there was none, it is
        its owner's only. Once.

        :raises OSError: it could not be written; the old one is as it was.
        """
        os.ftruncate(self._handle, 0)
        with open(self._handle, "wb", closefd=False) as file:
            file.write(content)
        self._take_on_owner_and_mode()
        os.fsync(self._handle)
        self._new.replace(self.path)
        self._replaced = True
        _sync(self.path.parent)

    def _lock(self) -> bool:
        handle = os.open(self._new, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, OWNERS_ONLY)
        try:
            if os.fstat(handle).st_uid != os.geteuid():
                raise ConfigurationError(f"{self._new} is somebody else's: look at it, and remove it.")
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(self._new, handle):  # and not renamed by the one before, who had the lock until then
                self._handle = handle
                return True
        except BlockingIOError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return False

    def _take_on_owner_and_mode(self) -> None:
        try:
            old = self.path.stat()
        except FileNotFoundError:
            os.fchmod(self._handle, OWNERS_ONLY)
            return
        new = os.fstat(self._handle)
        if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
            os.fchown(self._handle, old.st_uid, old.st_gid)
        os.fchmod(self._handle, stat.S_IMODE(old.st_mode))

    def __repr__(self) -> str:
        return f"<ReplacedFile {self.path}>"


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sync(directory: Path) -> None:
    """So that the rename outlives a power cut; where directories cannot be synced, it is as safe as it can be."""
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
