"""Copies of an SQLite database: one made while others write, and one put in its place."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from rpz_auth.errors import ConfigurationError

from rpz_auth_server import files
from rpz_auth_server.storage.file import connect
from rpz_auth_server.storage.lock import FileLock

Progress = Callable[[int, int], None]
"""Called with the pages that are copied and the pages that there are."""

_PAGES = 256
"""Copied in one step; other programs get the processor in between."""
_LOGS = ("-wal", "-shm", "-journal")
_BESIDE = (*_LOGS, ".lock", ".lock-turn")
_PRIMARY_CODE = 0xFF
"""The part of an error code of SQLite that says what went wrong; the rest says where."""


def back_up(source: Path, target: Path, progress: Progress) -> None:
    """Copy a database to a private file, which must not exist and appears whole; on return it is durable.

    Authorities may go on writing. The copy is of one moment, that of the beginning: while the reader's
    transaction is open it sees no later one, so no step begins anew.

    Raises:
        ConfigurationError: The target cannot be written or exists, or the source is damaged.
    """
    try:
        with _draft_of(target) as draft:
            with contextlib.closing(_create(draft)) as copy, reading(source) as reader:
                reader.backup(
                    copy,
                    pages=_PAGES,
                    progress=_pages(progress),
                )
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
                check(copy, target)
            _sync(draft)
            os.link(draft, target)  # unlike rename, refuses to replace
            _sync(target.parent)
    except FileExistsError:
        raise ConfigurationError(f"{target} exists; it is not overwritten") from None
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"the backup {target} cannot be made: {error}") from None


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Let pass a database that is whole and ours.

    Raises:
        ConfigurationError: It is not.
    """
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check").fetchall()]
        connection.execute("SELECT instance FROM meta").fetchall()
    except sqlite3.DatabaseError:
        raise ConfigurationError(f"{path} is not a database of rpz-auth-server, or is damaged") from None
    if found != ["ok"]:
        raise ConfigurationError(f"{path} is damaged: {found[0]}")


def ensure_unused(path: Path) -> None:
    """Let pass a database that no process has open; nothing of it stands in a log afterwards.

    Raises:
        ConfigurationError: An authority runs on it, or it cannot be opened.
    """
    if not path.exists():
        return
    try:
        with contextlib.closing(connect(path)) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            # Leaving the write-ahead log needs every other connection to be closed.
            (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & _PRIMARY_CODE not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise ConfigurationError(
                f"whether an authority runs on {path} cannot be told: {error}; mend that, or see that none "
                "runs and move the file away"
            ) from None
        mode = "wal"
    except sqlite3.DatabaseError:  # whatever it is, the backup is better
        return
    if mode != "delete":
        raise ConfigurationError(f"an authority runs on {path}; stop it first")


@contextlib.contextmanager
def draft_from(backup: Path, place: Path, progress: Progress) -> Iterator[Path]:
    """Copy a backup to a draft beside the place that it is for; what is left of it at the end is removed.

    Raises:
        ConfigurationError: It cannot be read, is damaged or is not ours.
    """
    if not backup.is_file():
        raise ConfigurationError(f"there is no backup {backup}")
    with _draft_of(place) as draft:
        try:
            # Immutable: it is copied as it stands, also from a medium that cannot be written to.
            uri = f"{backup.absolute().as_uri()}?mode=ro&immutable=1"
            with (
                contextlib.closing(sqlite3.connect(uri, uri=True)) as source,
                contextlib.closing(_create(draft)) as copy,
            ):
                check(source, backup)
                source.backup(copy, pages=_PAGES, progress=_pages(progress))
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"{backup} cannot be restored: {error}") from None
        yield draft


def forget_cursors(draft: Path) -> None:
    """Let every verifier take a new snapshot, whatever place in the stream it stands at."""
    with contextlib.closing(connect(draft)) as connection:
        connection.execute("UPDATE meta SET collected_event = (SELECT max(sequence) FROM events)")
        connection.execute("PRAGMA journal_mode = DELETE")


def put(draft: Path, place: Path) -> Path | None:
    """Put a database in the place of another; return where that one is kept now.

    Whoever opens the place meanwhile waits, and finds the new one.

    Raises:
        ConfigurationError: An authority runs there by now.
    """
    _sync(draft)
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    try:
        with lock.held():
            ensure_unused(place)
            kept = place.with_name(f"{place.name}.before-restore-{secrets.token_hex(4)}")
            found = place.exists()
            if found:
                os.link(place, kept)
            for end in _LOGS:  # left of one that was moved away; SQLite would apply them to the new one
                with contextlib.suppress(FileNotFoundError):
                    place.with_name(place.name + end).rename(kept.with_name(kept.name + end))
            draft.replace(place)
            _sync(place.parent)
    finally:
        lock.close()
    return kept if found else None


@contextlib.contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield draft
    finally:
        for end in ("", *_BESIDE):
            draft.with_name(draft.name + end).unlink(missing_ok=True)


def _create(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.PRIVATE))
    return sqlite3.connect(path, isolation_level=None)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """See one moment of a database that others may write to."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    connection = connect(path, read_only=True)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT instance FROM meta").fetchall()  # a transaction begins with its first read
        yield connection
        connection.execute("ROLLBACK")
    finally:
        with lock.held():  # the last connection that closes runs a checkpoint
            connection.close()
        lock.close()


def _pages(progress: Progress) -> Callable[[int, int, int], None]:
    return lambda _status, remaining, total: progress(total - remaining, total)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
