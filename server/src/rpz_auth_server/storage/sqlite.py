"""The store on SQLite, for any number of processes on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.account import Account, Consent, ExternalIdentity, Session
from rpz_auth_server.domain.app import ApiToken, App, ClientSecret
from rpz_auth_server.domain.event import AuditRecord, Cursor, Event, StoredSnapshot
from rpz_auth_server.domain.grant import Grant, GrantState
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import SealedKey
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.storage import audit, events
from rpz_auth_server.storage.bell import Bell
from rpz_auth_server.storage.clock import DatabaseClock
from rpz_auth_server.storage.collect import collect
from rpz_auth_server.storage.file import connect, prepare
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.rows import (
    ACCOUNTS,
    API_TOKENS,
    APPS,
    CLIENT_SECRETS,
    CONSENTS,
    EXTERNAL_IDENTITIES,
    GRANTS,
    ISSUER,
    SESSIONS,
    SIGNING_KEYS,
    R,
    Table,
    write,
)
from rpz_auth_server.storage.store import Commit
from rpz_auth_server.storage.writer import Writer


class SqliteStore:
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
                instance, seen = connection.execute("SELECT instance, now FROM meta").fetchone()
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

    def now(self) -> float:
        """See `Store.now`."""
        return self._clock.now()

    async def instance(self) -> str:
        """See `Store.instance`."""
        return self._instance

    async def issuer(self) -> Issuer | None:
        """See `Store.issuer`."""
        return self._one(ISSUER, "")

    async def app(self, app_id: str) -> App | None:
        """See `Store.app`."""
        return self._one(APPS, "WHERE app_id = ?", app_id)

    async def apps(self, *, owner: str | None, after: str, limit: int) -> Sequence[App]:
        """See `Store.apps`."""
        if owner is None:
            return self._all(APPS, "WHERE app_id > ? AND NOT deleted ORDER BY app_id LIMIT ?", after, limit)
        condition = "WHERE owner = ? AND app_id > ? AND NOT deleted ORDER BY app_id LIMIT ?"
        return self._all(APPS, condition, owner, after, limit)

    async def client_secret(self, secret_id: str) -> ClientSecret | None:
        """See `Store.client_secret`."""
        return self._one(CLIENT_SECRETS, "WHERE secret_id = ?", secret_id)

    async def client_secrets(self, app_id: str) -> Sequence[ClientSecret]:
        """See `Store.client_secrets`."""
        return self._all(CLIENT_SECRETS, "WHERE app_id = ? ORDER BY created_at, secret_id", app_id)

    async def api_token(self, api_token_id: str) -> ApiToken | None:
        """See `Store.api_token`."""
        return self._one(API_TOKENS, "WHERE api_token_id = ?", api_token_id)

    async def api_tokens(self, app_id: str, *, after: str, limit: int) -> Sequence[ApiToken]:
        """See `Store.api_tokens`."""
        condition = "WHERE app_id = ? AND api_token_id > ? ORDER BY api_token_id LIMIT ?"
        return self._all(API_TOKENS, condition, app_id, after, limit)

    async def grant(self, grant_id: str) -> Grant | None:
        """See `Store.grant`."""
        return self._one(GRANTS, "WHERE grant_id = ?", grant_id)

    async def grants_of_subject(
        self, subject: str, *, app_id: str | None = None, limit: int
    ) -> Sequence[Grant]:
        """See `Store.grants_of_subject`."""
        alive = "state <> ? AND idle_expires_at > ? AND expires_at > ? LIMIT ?"
        now = self.now()
        values = (str(GrantState.REVOKED), now, now, limit)
        if app_id is None:
            return self._all(GRANTS, f"WHERE subject = ? AND {alive}", subject, *values)
        return self._all(GRANTS, f"WHERE subject = ? AND app_id = ? AND {alive}", subject, app_id, *values)

    async def signing_keys(self) -> Sequence[SealedKey]:
        """See `Store.signing_keys`."""
        return self._all(SIGNING_KEYS, "ORDER BY created_at, kid")

    async def account(self, account_id: str) -> Account | None:
        """See `Store.account`."""
        return self._one(ACCOUNTS, "WHERE account_id = ?", account_id)

    async def account_of_user(self, user_name: str) -> Account | None:
        """See `Store.account_of_user`."""
        return self._one(ACCOUNTS, "WHERE user_name = ?", user_name)

    async def accounts(self, *, after: str, limit: int) -> Sequence[Account]:
        """See `Store.accounts`."""
        return self._all(ACCOUNTS, "WHERE user_name > ? ORDER BY user_name LIMIT ?", after, limit)

    async def session(self, session_id: str) -> Session | None:
        """See `Store.session`."""
        return self._one(SESSIONS, "WHERE session_id = ?", session_id)

    async def sessions(self, account_id: str) -> Sequence[Session]:
        """See `Store.sessions`."""
        condition = (
            "WHERE account_id = ? AND ended_at IS NULL AND idle_expires_at > ? AND expires_at > ?"
            " ORDER BY created_at, session_id"
        )
        now = self.now()
        return self._all(SESSIONS, condition, account_id, now, now)

    async def consent(self, consent_id: str) -> Consent | None:
        """See `Store.consent`."""
        return self._one(CONSENTS, "WHERE consent_id = ?", consent_id)

    async def consents(self, subject: str, *, after: str, limit: int) -> Sequence[Consent]:
        """See `Store.consents`."""
        condition = "WHERE subject = ? AND consent_id > ? AND expires_at > ? ORDER BY consent_id LIMIT ?"
        return self._all(CONSENTS, condition, subject, after, self.now(), limit)

    async def external_identity(self, identity_id: str) -> ExternalIdentity | None:
        """See `Store.external_identity`."""
        return self._one(EXTERNAL_IDENTITIES, "WHERE identity_id = ?", identity_id)

    async def external_identities(self, account_id: str) -> Sequence[ExternalIdentity]:
        """See `Store.external_identities`."""
        condition = "WHERE account_id = ? ORDER BY created_at, identity_id"
        return self._all(EXTERNAL_IDENTITIES, condition, account_id)

    async def audit_records(self, *, after: int, limit: int) -> Sequence[AuditRecord]:
        """See `Store.audit_records`."""
        with _unavailable():
            return audit.after(self._reader, after, limit)

    async def commit(self, commit: Commit) -> None:
        """See `Store.commit`."""
        # A cancelled caller cancels the future that it awaits, and not what is queued.
        await self._writer.submit(partial(_write, commit))

    async def snapshot(self) -> StoredSnapshot:
        """See `Store.snapshot`."""
        # The only read without a bound: after a mass revocation it would hold the event loop for too long.
        return await asyncio.to_thread(self._snapshot)

    async def cursor(self) -> Cursor:
        """See `Store.cursor`."""
        return self._newest()

    async def events_after(self, cursor: Cursor, *, limit: int) -> tuple[Event, ...] | None:
        """See `Store.events_after`."""
        with _unavailable():
            return events.after(self._reader, cursor, limit)

    async def wait_for_events(self, cursor: Cursor) -> None:
        """See `Store.wait_for_events`."""
        await self._bell.wait(cursor)

    async def heartbeat(self) -> float:
        """See `Store.heartbeat`."""
        # Every transaction stores its time, so there is nothing to do in it.
        return await self._writer.submit(lambda _, now: now)

    async def collect(self, *, limit: int) -> int:
        """See `Store.collect`."""
        return await self._writer.submit(partial(collect, limit=limit))

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

    def _snapshot(self) -> StoredSnapshot:
        if self._closed:
            raise BackendUnavailable("the database is closed")
        # A connection of its own, because another thread than the event loop's must not share the reader's
        # transactions; opening it costs less than a millisecond.
        with _unavailable(), contextlib.closing(connect(self._path, read_only=True)) as connection:
            return events.snapshot(connection, self.now())

    def _newest(self) -> Cursor:
        with _unavailable():
            return events.newest(self._reader)

    def _all(self, table: Table[R], condition: str, *values: object) -> list[R]:
        with _unavailable():
            rows = self._reader.execute(table.select + condition, values).fetchall()
        return [table.load(row) for row in rows]

    def _one(self, table: Table[R], condition: str, *values: object) -> R | None:
        found = self._all(table, condition, *values)
        return found[0] if found else None


def _prepare(path: Path, lock: FileLock) -> sqlite3.Connection:
    with lock.held():
        return prepare(path)


def _write(commit: Commit, connection: sqlite3.Connection, now: float) -> None:
    try:
        # Apps and accounts first: the other rows refer to them.
        for row in sorted(commit.rows, key=lambda row: not isinstance(row, App | Account)):
            write(connection, row)
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            raise Conflict from error  # the App has gone since it was read
        raise
    for change in commit.events:
        events.write(connection, change, now)
    for record in commit.audit:
        audit.append(connection, record, now)


@contextlib.contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise BackendUnavailable("the database cannot be read at the moment; try again") from error
