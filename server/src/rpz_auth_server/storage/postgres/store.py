"""The store on PostgreSQL."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable

import psycopg
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.domain.event import Cursor
from rpz_auth_server.storage import events
from rpz_auth_server.storage.clock import DatabaseClock
from rpz_auth_server.storage.postgres.dialect import translate
from rpz_auth_server.storage.postgres.listener import Listener
from rpz_auth_server.storage.postgres.reader import Reader
from rpz_auth_server.storage.postgres.schema import migrate
from rpz_auth_server.storage.postgres.session import Address, OutcomeUnknown, Session, connected
from rpz_auth_server.storage.postgres.writer import ServerTime, Writer, begin
from rpz_auth_server.storage.rows import R, Table
from rpz_auth_server.storage.sql import INCOMING, SqlStore, check_not_moved
from rpz_auth_server.storage.steps import Steps, T, Work
from rpz_auth_server.storage.store import WriteLoad
from rpz_auth_server.storage.writer import unavailable

_READING = translate("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")


class PostgresStore(SqlStore):
    """`Store` on PostgreSQL, or what speaks its protocol; of the event loop that opened it.

    One connection writes, a few read, one listens. What a reader sees is durable: a server shows a
    transaction only when its commit has ended, with synchronous replicas after these have it on disk. There
    are two exceptions. A server that crashed and came back shows what it finds on its own disk; therefore
    each connection that reads begins with a commit, which waits for the replicas and so covers that. And an
    old primary that was cut off knows nothing of its successor; therefore no connection outlives the
    writer's.
    """

    def __init__(
        self,
        address: Address,
        *,
        clock: DatabaseClock,
        server_time: ServerTime,
        instance: str,
    ) -> None:
        """Use `open` instead."""
        self._address = address
        self._clock = clock
        self._server_time = server_time
        self._instance = instance
        self._era = 0
        self._reader = Reader(self._connect, lambda: self._era)
        self._listener = Listener(address.connect, self.cursor)
        self._writer = Writer(
            self._connect, clock, server_time, written=self._listener.ring, lost=self._change_era
        )

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> PostgresStore:
        """Open a database; make or migrate its tables if need be.

        Args:
            url: `postgresql://user:password@host1,host2/name`. Connections must be direct, or through a
                pooler that gives each client one of its own: LISTEN and session settings need that.
            clock: Wall time in seconds since the epoch; the server's, unless a test says otherwise.
            monotonic: What carries the time while the wall clock stands or goes back.

        Raises:
            ConfigurationError: It cannot or must not be used; the message names the mend.
            BackendUnavailable: It does not answer just now.
        """
        address = Address(url)
        server_time = ServerTime(monotonic)
        try:
            async with connected(address) as session:
                with session.limit(60):  # behind others that migrate
                    await session.connection.execute("SET lock_timeout = 0")
                    await migrate(session)
                    cursor = await session.connection.execute("SELECT instance, now, moved_to FROM meta")
                    instance, seen, moved_to = (await cursor.fetchall())[0]
                    check_not_moved(moved_to)
                    cursor = await session.connection.execute(
                        "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
                    )
                    server_time.observe((await cursor.fetchall())[0][0])
        except (psycopg.errors.InvalidAuthorizationSpecification, psycopg.errors.InvalidCatalogName) as error:
            raise ConfigurationError(f"{address}: {error.diag.message_primary}") from None
        except (psycopg.Error, OutcomeUnknown, OSError) as error:
            raise unavailable(error) from error
        time_of = DatabaseClock(wall=clock or server_time, monotonic=monotonic, not_before=seen)
        store = cls(address, clock=time_of, server_time=server_time, instance=instance)
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
        await self._listener.wait(cursor)

    async def cursor(self) -> Cursor:
        """See `Store.cursor`."""
        return await self._reader.read(lambda session: session.run(events.newest()))

    async def close(self) -> None:
        """See `Store.close`."""
        await self._writer.stop()
        await self._listener.stop()
        await self._reader.stop()

    async def _look_up(self, table: Table[R], key: str) -> R | None:
        return await self._reader.look_up(table, key)

    async def _select(self, table: Table[R], condition: str, *values: object) -> list[R]:
        text = translate(table.select + condition)

        async def query(session: Session) -> list[R]:
            cursor = await session.connection.execute(text, values)
            return [table.load(row) for row in await cursor.fetchall()]

        return await self._reader.read(query)

    async def _read(self, steps: Callable[[], Steps[T]], *, long: bool = False) -> T:  # noqa: ARG002 - SQLite's
        async def query(session: Session) -> T:
            async with _reading(session):
                return await session.run(steps())

        return await self._reader.read(query)

    async def _write(
        self, work: Work[T], *, single: bool = False, announce: bool = False, vital: bool = False
    ) -> T:
        return await self._writer.submit(work, single=single, announce=announce, vital=vital)

    async def _connect(self) -> Session:
        """Connect to a server that proves by a commit that it is the one that takes writes now."""
        session = await self._address.connect()
        try:
            with session.limit():
                await begin(session, self._clock, self._server_time)
                await session.commit()
        except OutcomeUnknown as error:
            self._address.distrust()
            await session.close()
            raise psycopg.OperationalError("the server takes no durable commit") from error
        except BaseException:
            self._address.distrust()
            await session.close()
            raise
        return session

    def _change_era(self) -> None:
        self._era += 1
        self._address.distrust()


async def make_tables(address: Address) -> None:
    """Bring a database to this version's tables, and leave it.

    Raises:
        ConfigurationError: It cannot or must not be used.
        BackendUnavailable: It does not answer just now.
    """
    try:
        async with connected(address) as session:
            with session.limit(60):
                await migrate(session)
    except (psycopg.Error, OutcomeUnknown, OSError) as error:
        raise unavailable(error) from error


async def is_incoming(address: Address) -> bool:
    """Whether an authority is being moved to a database at the moment.

    Raises:
        ConfigurationError: It cannot or must not be used.
        BackendUnavailable: It does not answer just now.
    """
    try:
        async with connected(address) as session:
            with session.limit():
                cursor = await session.connection.execute("SELECT moved_to FROM meta")
                return (INCOMING,) in await cursor.fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return False  # `open` makes them
    except (psycopg.Error, OutcomeUnknown, OSError) as error:
        raise unavailable(error) from error


@contextlib.asynccontextmanager
async def _reading(session: Session) -> AsyncIterator[None]:
    """Let several statements see one state of the database."""
    await session.connection.execute(_READING)
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.Error):
            await session.connection.execute("ROLLBACK")
