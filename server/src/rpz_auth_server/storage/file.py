"""The database's file, and connections to it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

from rpz_auth.errors import ConfigurationError
from sqlite_utils import Database, Migrations

from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.storage.schema import MIGRATIONS
from rpz_auth_server.storage.steps import Result, Steps, T

_OLDEST_SQLITE = (3, 37, 0)
"""The first with STRICT tables; RETURNING came before."""

_BUSY_TIMEOUT = 5.0
"""Seconds to wait for another program that has the database locked, such as the sqlite3 shell."""


def prepare(path: Path) -> sqlite3.Connection:
    """Make or migrate the database; the caller holds its lock. Return the connection that writes.

    Raises:
        ConfigurationError: It cannot or must not be used; the message names the mend.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise ConfigurationError(
            f"SQLite 3.37 or newer is needed, and this Python has {sqlite3.sqlite_version}"
        )
    _make_private(path)
    try:
        connection = connect(path)
        try:
            _use_wal(connection, path)
            migrate(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN}:
            raise ConfigurationError(f"{path} is not an SQLite database: name another file") from error
        raise
    return connection


def run(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Run steps in the caller's transaction.

    Raises:
        Conflict: A row refers to one that has gone since it was read; or the steps say so.
    """
    try:
        statement, values = next(steps)
        while True:
            cursor = connection.execute(statement, values)
            rows = cursor.fetchall()
            statement, values = steps.send(Result(rows, max(cursor.rowcount, len(rows))))
    except StopIteration as ended:
        result: T = ended.value
        return result
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            raise Conflict from error
        raise


def run_reading(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    """Run steps that see one state of the database."""
    connection.execute("BEGIN")
    try:
        return run(connection, steps)
    finally:
        connection.execute("ROLLBACK")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to this version's schema; the caller holds the file lock.

    Raises:
        ConfigurationError: It is of a newer version, or not ours.
    """
    db = Database(connection)
    migrations = Migrations("rpz-auth-server")
    for name, steps in MIGRATIONS.items():
        migrations(name=name)(_applying(steps))
    applied = {migration.name for migration in migrations.applied(db)}
    if applied - set(MIGRATIONS):
        raise ConfigurationError(
            "the database was made by a newer rpz-auth-server: start that version or a later one"
        )
    if not applied and set(db.table_names()) - {migrations.migrations_table}:
        raise ConfigurationError("the database belongs to another program: name another file")
    migrations.apply(db)


def _applying(steps: Callable[[], Steps[None]]) -> Callable[[Database], None]:
    return lambda db: run(db.conn, steps())


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Connect to a database that exists; without implicit transactions, for one thread at a time."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_TIMEOUT,
    )
    try:
        # FULL: a commit returns after the fsync of the write-ahead log. `fullfsync` is what makes an fsync
        # one on macOS, and means nothing elsewhere.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA foreign_keys = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigurationError(f"{path} is on a file system without shared memory: name a local one")


def _make_private(path: Path) -> None:
    # An existing file is looked at and never opened here: closing any descriptor of it would drop the
    # POSIX locks that this process's SQLite connections hold. SQLite gives -wal and -shm the mode of the
    # database.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            if name.exists() and stat.S_IMODE(name.stat().st_mode) & 0o077:
                raise ConfigurationError(f"{name} is open to other users: chmod 600 {name}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from error
