"""The store on SQLite, for any number of processes on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.event import Cursor
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.storage import events
from rpz_auth_server.storage.bell import Bell
from rpz_auth_server.storage.clock import DatabaseClock
from rpz_auth_server.storage.file import connect, prepare, run, run_reading
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.rows import R, Table
from rpz_auth_server.storage.sql import SqlStore, check_not_moved
from rpz_auth_server.storage.steps import Steps, T, Work
from rpz_auth_server.storage.store import WriteLoad
from rpz_auth_server.storage.writer import Writer, unreadable


class SqliteStore(SqlStore):
    """`Store` on one SQLite file in WAL mode; of the event loop that opened it.

    Reads run on the event loop's own thread: one by primary key costs some 10 µs, a hop to another thread and
    back several times that, and a reader in WAL mode waits for no writer.

    What a reader sees is durable. SQLite publishes a transaction to other connections by the header of
    the WAL index, and with `synchronous = FULL` writes that header after the fsync of the log (wal.c,
    `walFrames`: `sqlite3OsSync` stands before `walIndexWriteHdr`). There is one exception: if the last
    process died between write and fsync, the next one's recovery publishes what it finds in the log.
    Therefore opening ends with a commit, whose fsync covers that too.
    """

    def __init__(
        self, path: Path, lock: FileLock, connection: sqlite3.Connection, clock: DatabaseClock, instance: str
    ) -> None:
        """Use `open` instead."""
        self._path = path
        self._lock = lock
        self._clock = clock
        self._instance = instance
        self._reader = connect(path, read_only=True)
        self._connection = connection
        self._bell = Bell(self._newest)
        self._writer = Writer(connection, lock, clock, self._bell.ring)
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> SqliteStore:
        """Open a database; make it, with mode 0600, or migrate it if need be.

        Args:
            path: Its file. SQLite puts `-wal` and `-shm` beside it, and this store `.lock`.
            clock: Wall time in seconds since the epoch.
            monotonic: What carries the time while the wall clock stands or goes back.

        Raises:
            ConfigurationError: The file cannot or must not be used; the message names the mend.
            BackendUnavailable: It could not be read or written just now.
        """
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        connection: sqlite3.Connection | None = None
        try:
            with _unavailable():
                connection = await asyncio.to_thread(_prepare, path, lock)
                instance, seen, moved_to = connection.execute(
                    "SELECT instance, now, moved_to FROM meta"
                ).fetchone()
                check_not_moved(moved_to)
                time_of = DatabaseClock(wall=clock, monotonic=monotonic, not_before=seen)
                store = cls(path, lock, connection, time_of, instance)
        except BaseException:
            if connection is not None:
                connection.close()
            lock.close()
            raise
        try:
            await store.heartbeat()
        except BaseException:
            await store.close()
            raise
        return store

    def write_load(self) -> WriteLoad:
        """See `Store.write_load`."""
        return self._writer.load()

    def now(self) -> float:
        """See `Store.now`."""
        return self._clock.now()

    async def instance(self) -> str:
        """See `Store.instance`."""
        return self._instance

    async def wait_for_events(self, cursor: Cursor) -> None:
        """See `Store.wait_for_events`."""
        await self._bell.wait(cursor)

    async def close(self) -> None:
        """Finish what was accepted, refuse what comes, and close the file."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._writer.stop)
        self._bell.close()
        self._reader.close()
        await asyncio.to_thread(self._close_connection)

    def _close_connection(self) -> None:
        # The last connection that closes runs a checkpoint.
        with contextlib.closing(self._connection), contextlib.suppress(BackendUnavailable), self._lock.held():
            self._connection.close()
        self._lock.close()

    async def _look_up(self, table: Table[R], key: str) -> R | None:
        # Not by `_select`: this is what each call does several times.
        try:
            rows = self._reader.execute(table.select_one, (key,)).fetchall()
        except sqlite3.Error as error:
            raise unreadable() from error
        return table.load(rows[0]) if rows else None

    async def _select(self, table: Table[R], condition: str, *values: object) -> list[R]:
        with _unavailable():
            rows = self._reader.execute(table.select + condition, values).fetchall()
        return [table.load(row) for row in rows]

    async def _read(self, steps: Callable[[], Steps[T]], *, long: bool = False) -> T:
        if long:  # after a mass revocation it would hold the event loop for too long
            return await asyncio.to_thread(self._read_aside, steps)
        with _unavailable():
            return run_reading(self._reader, steps())

    async def _write(
        self, work: Work[T], *, single: bool = False, announce: bool = False, vital: bool = False
    ) -> T:
        # A cancelled caller cancels the future that it awaits, and not what is queued.
        return await self._writer.submit(work, single=single, announce=announce, vital=vital)

    def _read_aside(self, steps: Callable[[], Steps[T]]) -> T:
        if self._closed:
            raise BackendUnavailable("the database is closed")
        # A connection of its own, because another thread than the event loop's must not share the reader's
        # transactions; opening it costs less than a millisecond.
        with _unavailable(), contextlib.closing(connect(self._path, read_only=True)) as connection:
            return run_reading(connection, steps())

    def _newest(self) -> Cursor:
        with _unavailable():
            if self._reader.execute("SELECT 1 FROM meta WHERE moved_to IS NOT NULL").fetchall():
                raise DatabaseMoved
            return run(self._reader, events.newest())


def _prepare(path: Path, lock: FileLock) -> sqlite3.Connection:
    with lock.held():
        return prepare(path)


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise unreadable() from error
