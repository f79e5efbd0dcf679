"""Connections to PostgreSQL: where to, set up how, and bounded in time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.storage.postgres.dialect import translate
from rpz_auth_server.storage.steps import Result, Steps, T

Connection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"

TIMEOUT = 6.0
"""Seconds for anything that is asked of the database. Beyond, the server is taken for dead, frozen or cut
off, and another is looked for. A switchover of a replicated cluster takes two to three."""

_DEFAULTS = {
    # Of several hosts the one that takes writes, and the next after two seconds without an answer.
    "target_session_attrs": "read-write",
    "connect_timeout": "2",
    # A peer that vanished without a word is found out in 5 + 3 * 2 seconds.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "application_name": "rpz-auth-server",
}

_SESSION = """
SELECT set_config('lock_timeout', '4s', false),
       set_config('idle_in_transaction_session_timeout', '3s', false),
       set_config('default_transaction_isolation', 'read committed', false),
       set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') = 'remote_apply'
                                             THEN 'remote_apply' ELSE 'on' END, false)
"""
"""All writers wait for one lock: nobody may hold it while it does nothing, and nobody waits for ever. A role
or database may have set `synchronous_commit` to less than an acknowledged write needs."""

_CHECK = "SELECT current_setting('synchronous_commit'), current_setting('fsync', true)"


class OutcomeUnknown(Exception):  # noqa: N818 - neither success nor failure
    """A commit was asked for, and nobody can say whether it holds."""


class Session:
    """One connection, set up as the authority needs it."""

    def __init__(self, connection: Connection) -> None:
        """Wrap a connection."""
        self.connection = connection
        self._warnings: list[str] = []
        connection.add_notice_handler(self._hear)

    @property
    def is_usable(self) -> bool:
        """False after it was closed or lost."""
        return not self.connection.closed and not self.connection.broken

    async def run(self, steps: Steps[T]) -> T:
        """Run steps in the caller's transaction.

        Raises:
            Conflict: A row refers to one that has gone since it was read; or the steps say so.
        """
        try:
            text, values = next(steps)
            while True:
                cursor = await self.connection.execute(translate(text), values)
                text, values = steps.send(await result_of(cursor))
        except StopIteration as ended:
            result: T = ended.value
            return result
        except psycopg.errors.ForeignKeyViolation as error:
            raise Conflict from error

    async def commit(self) -> None:
        """Commit, and be sure that it is where the server's settings say it must be.

        Raises:
            OutcomeUnknown: The connection was lost, or the server stopped waiting for its replicas: then the
                commit is visible, and a failover may yet undo it.
        """
        self._warnings.clear()
        try:
            cursor = await self.connection.execute("COMMIT")
        except psycopg.errors.SerializationFailure:
            raise
        except psycopg.Error as error:
            raise OutcomeUnknown from error
        if self._warnings:
            raise OutcomeUnknown("; ".join(self._warnings))
        if cursor.statusmessage != "COMMIT":  # a transaction that has failed says ROLLBACK, without an error
            raise psycopg.errors.InFailedSqlTransaction

    @contextlib.contextmanager
    def limit(self, seconds: float = TIMEOUT) -> Iterator[None]:
        """Cut the connection if what stands in the block takes longer.

        Cancelling would ask the server to cancel, and wait for it: a frozen one never answers.
        """
        timer = asyncio.get_running_loop().call_later(seconds, self.cut)
        try:
            yield
        finally:
            timer.cancel()

    def cut(self) -> None:
        """End it so that whoever waits for it hears of it at once."""
        with contextlib.suppress(OSError, psycopg.Error):
            copy = socket.socket(fileno=os.dup(self.connection.fileno()))
            with copy:
                copy.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Close it, whatever state it is in."""
        with contextlib.suppress(psycopg.Error, OSError):
            await self.connection.close()

    def _hear(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "a warning")


async def result_of(cursor: psycopg.AsyncCursor[tuple[Any, ...]]) -> Result:
    """Take what a statement gave."""
    rows = await cursor.fetchall() if cursor.description is not None else []
    return Result(rows, cursor.rowcount)


class Address:
    """Where the database is: one server or several, of which one takes writes. Its text shows no password."""

    def __init__(self, url: str) -> None:
        """Take a `postgresql://` URL.

        Raises:
            ConfigurationError: It cannot be read, or parts of a password may stand elsewhere in it.
        """
        given = _parse(url)
        if given is None:
            raise ConfigurationError(
                "the database URL cannot be read; write postgresql://user@host1,host2/name"
            )
        if any("@" in str(given.get(name, "")) for name in ("host", "port")) or any(
            character in str(given.get("dbname", "")) for character in "@:/"
        ):
            # A password was cut into pieces, as far as can be seen, and these would be shown.
            raise ConfigurationError(
                "the database URL cannot be read: @ stands in its host or port, or one of @:/ in the name of "
                "the database; percent-encode these characters in user and password"
            )
        self._parameters: dict[str, Any] = {**_DEFAULTS, **given}
        places = {name: str(given[name]).split(",") for name in ("host", "hostaddr", "port") if name in given}
        count = max(map(len, places.values()), default=1)
        self._places = [
            {name: (values * count)[number] for name, values in places.items()} for number in range(count)
        ]
        self._first = 0

    def __str__(self) -> str:
        """For people: hosts and name of the database."""
        hosts = ",".join(str(place.get("host") or place.get("hostaddr") or "") for place in self._places)
        return f"postgresql://{hosts}/{self._parameters.get('dbname', '')}"

    def distrust(self) -> None:
        """Try the server that is first in the row last from now on."""
        self._first = (self._first + 1) % len(self._places)

    async def connect(self) -> Session:
        """Connect to a server that takes writes, and set the session up.

        Raises:
            psycopg.Error: There is none, or it gave no answer in time.
            ConfigurationError: Its settings would let acknowledged writes be lost.
        """
        count = len(self._places)
        places = [self._places[(self._first + number) % count] for number in range(count)]
        joined = {name: ",".join(place[name] for place in places) for name in places[0]}
        parameters: dict[str, Any] = self._parameters | joined
        connection = await psycopg.AsyncConnection.connect(autocommit=True, **parameters)
        session = Session(connection)
        try:
            with session.limit():
                await self._set_up(connection)
        except BaseException:
            await session.close()
            raise
        return session

    async def _set_up(self, connection: Connection) -> None:
        await connection.execute(_SESSION)
        cursor = await connection.execute(_CHECK)
        synchronous, fsync = (await cursor.fetchall())[0]
        if synchronous not in {"on", "remote_apply"} or fsync == "off":
            raise ConfigurationError(
                f"{self}: with synchronous_commit = {synchronous} and fsync = {fsync} the server would lose "
                "what was acknowledged; switch both on"
            )


def _parse(url: str) -> dict[str, Any] | None:
    try:
        return {name: value for name, value in conninfo_to_dict(url).items() if value is not None}
    except psycopg.Error:
        return None  # the driver's error quotes what it could not read, which may be the password


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Session]:
    """Use a connection for one thing, and close it."""
    session = await address.connect()
    try:
        yield session
    finally:
        await session.close()


def delays() -> Iterator[float]:
    """Seconds before each next try: soon at first, and never long, since a failover takes but a few."""
    return itertools.chain((0.05, 0.1, 0.2), itertools.repeat(0.4))
