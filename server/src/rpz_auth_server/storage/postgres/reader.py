"""Reads from PostgreSQL: a few connections, which everybody's look-ups share."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import psycopg
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.refusal import RequestInvalid
from rpz_auth_server.storage.postgres.dialect import translate
from rpz_auth_server.storage.postgres.session import Session, delays
from rpz_auth_server.storage.rows import R, Table
from rpz_auth_server.storage.steps import T
from rpz_auth_server.storage.writer import overloaded, unavailable

LANES = 4
"""Connections. More would not help: each carries all look-ups of a kind that wait."""

WAITING = 10_000
"""Reads that may wait; beyond, an answer would come after its caller has gone."""

PATIENCE = 8.0
"""Seconds for which a read is tried, on whichever server."""

Query = Callable[[Session], Awaitable[T]]


@dataclass(slots=True)
class _LookUps:
    """All that was asked of one table while no connection was free."""

    table: Table[Any]
    waiting: dict[str, list[asyncio.Future[Any]]] = field(default_factory=dict)

    async def carry_out(self, session: Session) -> None:
        text = f"{self.table.select}WHERE {self.table.key} = ANY(?)"
        cursor = await session.connection.execute(translate(text), [list(self.waiting)])
        found = {row[0]: row for row in await cursor.fetchall()}
        for key, futures in self.waiting.items():
            row = found.get(key)
            value = None if row is None else self.table.load(row)
            for future in futures:
                if not future.done():
                    future.set_result(value)

    def fail(self, error: Exception) -> None:
        for futures in self.waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    @property
    def is_wanted(self) -> bool:
        return any(not future.done() for futures in self.waiting.values() for future in futures)


@dataclass(slots=True)
class _Single:
    """A read of its own."""

    query: Query[Any]
    future: asyncio.Future[Any]

    async def carry_out(self, session: Session) -> None:
        value = await self.query(session)
        if not self.future.done():
            self.future.set_result(value)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    @property
    def is_wanted(self) -> bool:
        return not self.future.done()


_Work: TypeAlias = _LookUps | _Single


class Reader:
    """Reads on connections of its own, each to a server that was seen to take writes.

    A look-up waits for the next turn of the event loop; all of one table that have come by then go as one
    query, and while all connections are busy more gather. Whenever the writer has lost its server, these
    connections are not used any more either: an old primary that was cut off would answer from the past.
    """

    def __init__(self, connect: Callable[[], Awaitable[Session]], era: Callable[[], int]) -> None:
        """Start the tasks; `era` changes whenever the writer has lost its connection."""
        self._connect = connect
        self._era = era
        self._loop = asyncio.get_running_loop()
        self._look_ups: dict[str, _LookUps] = {}
        self._singles: collections.deque[_Single] = collections.deque()
        self._count = 0
        self._idle: list[asyncio.Future[None]] = []
        self._stopping = False
        self._tasks = [asyncio.create_task(self._run()) for _ in range(LANES)]

    async def look_up(self, table: Table[R], key: str) -> R | None:
        """Read the row of a key."""
        if "\0" in key:  # no text of PostgreSQL has one
            return None
        future: asyncio.Future[R | None] = self._loop.create_future()
        if table.select not in self._look_ups:
            self._look_ups[table.select] = _LookUps(table)
        self._look_ups[table.select].waiting.setdefault(key, []).append(future)
        return await self._answer(future)

    async def read(self, query: Query[T]) -> T:
        """Run a query; it may be begun again on another server."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._singles.append(_Single(query, future))
        return await self._answer(future)

    async def stop(self) -> None:
        """Refuse what waits, and end."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while (work := self._take()) is not None:
            work.fail(unavailable(None))

    async def _answer(self, future: asyncio.Future[T]) -> T:
        if self._stopping:
            raise BackendUnavailable("the database is closed")
        if self._count >= WAITING:
            future.cancel()
            raise overloaded()
        self._wake()
        self._count += 1
        try:
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError as error:
            raise unavailable(error) from None
        finally:
            self._count -= 1

    def _wake(self) -> None:
        if self._idle:
            self._idle.pop().set_result(None)

    def _take(self) -> _Work | None:
        if self._singles:
            return self._singles.popleft()
        for name in self._look_ups:
            return self._look_ups.pop(name)
        return None

    async def _run(self) -> None:
        lane = _Lane(self._connect, self._era)
        try:
            while True:
                work = self._take()
                if work is None:
                    await self._sleep()
                    continue
                try:
                    await lane.carry_out(work)
                except asyncio.CancelledError:
                    work.fail(unavailable(None))
                    raise
        finally:
            await lane.close()

    async def _sleep(self) -> None:
        idle = self._loop.create_future()
        self._idle.append(idle)
        try:
            await idle
        finally:
            with contextlib.suppress(ValueError):
                self._idle.remove(idle)


class _Lane:
    """One connection, replaced whenever it fails or the writer has lost its own."""

    def __init__(self, connect: Callable[[], Awaitable[Session]], era: Callable[[], int]) -> None:
        self._connect = connect
        self._era = era
        self._session: Session | None = None
        self._connected_in = era()

    async def carry_out(self, work: _Work) -> None:
        """Try until it is done, or nobody waits for it any more."""
        waits = delays()
        while work.is_wanted:
            try:
                session = await self._get()
                with session.limit():
                    await work.carry_out(session)
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError):
                await self.close()
                await asyncio.sleep(next(waits))
            except psycopg.DataError:  # a NUL, which the driver refuses: the connection is good
                work.fail(RequestInvalid("the request has a character that no text here can have"))
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                await self.close()
                work.fail(unavailable(error) if isinstance(error, psycopg.Error) else error)

    async def close(self) -> None:
        """Give the connection up, whatever it is at."""
        session, self._session = self._session, None
        if session is not None:
            session.cut()
            await session.close()

    async def _get(self) -> Session:
        if self._session is None or not self._session.is_usable or self._connected_in != self._era():
            await self.close()
            self._connected_in = self._era()
            self._session = await self._connect()
        return self._session
