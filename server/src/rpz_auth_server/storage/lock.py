"""A lock between the processes that write to one database file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rpz_auth.errors import BackendUnavailable, ConfigurationError

_TIMEOUT = 5.0
_PAUSE = 0.0005


class FileLock:
    """Held by whoever migrates, writes to, or checkpoints the database.

    SQLite's own lock keeps two writers apart, and stays the one that is relied on for that. This one
    stands around it for three reasons: migrations read before they write; SQLite before 3.51.3 can corrupt a
    database when one connection resets the write-ahead log while another runs a checkpoint
    (https://sqlite.org/wal.html#walresetbug), and a checkpoint runs after its transaction has ended; and a
    waiter of SQLite's lock sleeps up to 100 ms at a time, while a commit takes less than one. The kernel
    releases the lock of a process that dies.

    Who waits holds the *turn*, a second lock that everybody takes first: a process that writes without pause
    would otherwise take the lock again before a waiter looks, and the others' heartbeats would never come.
    """

    def __init__(self, path: Path) -> None:
        """Make the files with mode 0600 unless they are there.

        Raises:
            ConfigurationError: They cannot be made.
        """
        self._turn = _open(path.with_name(f"{path.name}-turn"))
        self._file = _open(path)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            BackendUnavailable: Somebody else has held it for five seconds.
        """
        deadline = time.monotonic() + _TIMEOUT
        _take(self._turn, deadline)
        try:
            _take(self._file, deadline)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up the files."""
        os.close(self._file)
        os.close(self._turn)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from error


def _take(file: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BackendUnavailable("the database is busy; try again") from None
            time.sleep(_PAUSE)  # flock knows no deadline, and a stopped process must not stop us
        else:
            return
