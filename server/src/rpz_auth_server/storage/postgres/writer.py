"""The one task of a process that writes to PostgreSQL, many waiting operations in one transaction."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.storage.clock import DatabaseClock
from rpz_auth_server.storage.postgres.dialect import translate
from rpz_auth_server.storage.postgres.session import OutcomeUnknown, Session, delays, result_of
from rpz_auth_server.storage.sql import TICK
from rpz_auth_server.storage.steps import Steps, T, Work
from rpz_auth_server.storage.store import WriteLoad
from rpz_auth_server.storage.writer import BATCH, QUEUE, overloaded, unavailable

_log = structlog.get_logger("rpz_auth_server")

PATIENCE = 8.0
"""Seconds that an operation is kept for while the database is looked for; then its caller is answered."""

CHANNEL = "rpz_auth_events"
_TICK = translate(f"{TICK}, CAST(extract(epoch FROM clock_timestamp()) AS double precision)")

_AGAIN = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)
"""A whole transaction must be begun again; the connection is good."""


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    single: bool
    announce: bool
    answer: asyncio.Future[Any]
    deadline: float
    outcome: Any = field(default=None, init=False)
    """A value, or the exception that the caller gets."""


class ServerTime:
    """The wall time of the database's server, as far as it is known here, carried by the monotonic clock.

    What the server says has aged by the time that it arrives, so every estimate is late; the best is the one
    that is late the least.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Know nothing yet: the beginning of the epoch."""
        self._monotonic = monotonic
        self._lead = -monotonic()

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self._monotonic() + self._lead

    def observe(self, time: float) -> None:
        """Take what the server has just said."""
        self._lead = max(self._lead, time - self._monotonic())


async def begin(session: Session, clock: DatabaseClock, server_time: ServerTime) -> float:
    """Begin a transaction that writes, and return its time.

    Its first statement stores the time in the one row of `meta`, so that no later start begins before a time
    that was used. The lock on that row is held to the end: all that write, on whichever machine, take turns.
    It gives the order of events and of the audit chain, and nobody can deadlock.
    """
    now = clock.now()
    async with session.connection.pipeline():
        await session.connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        cursor = await session.connection.execute(_TICK, [now, now])
        written = await cursor.fetchone()
    if written is None:
        raise DatabaseMoved
    now, server_now = written
    server_time.observe(server_now)
    clock.catch_up(now)
    return float(now)


class Writer:
    """Runs operations on the one connection that writes, and answers after their commit.

    A commit waits for the disks of at least two machines, which costs more than everything else about a
    write, so all that waits shares one. Nothing here runs in a task of a caller: no deadline or disconnect
    of a client can interrupt a commit.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Session]],
        clock: DatabaseClock,
        server_time: ServerTime,
        written: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        """Start the task.

        Args:
            connect: Gives a new connection.
            clock: The database's time.
            server_time: Where to put what the server says of it.
            written: Called after each transaction with an event.
            lost: Called when a connection has failed.
        """
        self._connect = connect
        self._clock = clock
        self._server_time = server_time
        self._written = written
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._jobs: collections.deque[_Job] = collections.deque()
        self._operations = 0
        self._transactions = 0
        self._arrived = asyncio.Event()
        self._stopping = False
        self._session: Session | None = None
        self._task = asyncio.create_task(self._run())

    async def submit(self, work: Work[T], *, single: bool, announce: bool, vital: bool = False) -> T:
        """Carry out an operation, also when the caller is cancelled.

        Args:
            work: Its steps.
            single: It is one statement, which writes one row or none.
            announce: It writes an event.
            vital: There is room for it where there is none for others.

        Raises:
            Overloaded: Too much waits already.
            BackendUnavailable: It did not happen, or nobody can say.
        """
        if self._stopping:
            raise unavailable(None)
        if len(self._jobs) >= (2 * QUEUE if vital else QUEUE):
            raise overloaded()
        answer: asyncio.Future[T] = self._loop.create_future()
        self._jobs.append(_Job(work, single, announce, answer, self._loop.time() + PATIENCE))
        self._arrived.set()
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError as error:
            raise unavailable(error) from None

    def load(self) -> WriteLoad:
        """See `Store.write_load`."""
        return WriteLoad(
            waiting=len(self._jobs), operations=self._operations, transactions=self._transactions
        )

    async def stop(self) -> None:
        """Carry out what waits, then end."""
        self._stopping = True
        self._arrived.set()
        await self._task
        await self._drop()

    async def _run(self) -> None:
        waits = delays()
        while True:
            batch = self._take()
            if not batch:
                if self._stopping:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            try:
                await self._carry_out(batch)
                waits = delays()
            except OutcomeUnknown as error:
                _log.warning(
                    "a commit may be lost in a failover, and was not acknowledged", reason=str(error)
                )
                await self._fail(batch, error)
            except (psycopg.Error, OSError) as error:
                # Nothing of it was written: the same again, here or on the server that has taken over.
                self._jobs.extendleft(reversed(batch))
                await self._recover(error, waits)
            except Exception as error:  # noqa: BLE001 - whatever it is, everybody who waits needs an answer
                await self._fail(batch, error)

    async def _recover(self, error: Exception, waits: Iterator[float]) -> None:
        session = self._session
        if isinstance(error, _AGAIN) and session is not None and session.is_usable:
            try:
                with session.limit():
                    await session.connection.execute("ROLLBACK")
            except psycopg.Error:
                await self._drop()
        else:
            await self._drop()
        await asyncio.sleep(next(waits))

    async def _fail(self, batch: Sequence[_Job], error: Exception) -> None:
        if not isinstance(error, ConfigurationError | DatabaseMoved):
            error = unavailable(error)
        for job in batch:
            if not job.answer.done():
                job.answer.set_exception(error)
        await self._drop()

    def _take(self) -> list[_Job]:
        """What is carried out together; without what nobody waits for any more since it took too long."""
        now = self._loop.time()
        batch: list[_Job] = []
        while self._jobs and len(batch) < BATCH:
            job = self._jobs.popleft()
            if job.deadline > now:
                batch.append(job)
            elif not job.answer.done():
                job.answer.set_exception(unavailable(None))
        return batch

    async def _carry_out(self, batch: Sequence[_Job]) -> None:
        self._operations += len(batch)
        self._transactions += 1
        if self._session is None or not self._session.is_usable:
            self._session = await self._connect()
        with self._session.limit():
            try:
                await self._transact(self._session, batch, apart=False)
            except (psycopg.IntegrityError, psycopg.DataError):
                # One of those that went together broke the transaction; apart, it breaks its own part only.
                await self._session.connection.execute("ROLLBACK")
                await self._transact(self._session, batch, apart=True)
        for job in batch:
            if job.answer.done():
                continue
            if isinstance(job.outcome, Exception):
                job.answer.set_exception(job.outcome)
            else:
                job.answer.set_result(job.outcome)
        if any(job.announce for job in batch):
            self._written()

    async def _transact(self, session: Session, batch: Sequence[_Job], *, apart: bool) -> None:
        now = await begin(session, self._clock, self._server_time)
        together: list[_Job] = []
        for job in batch:
            if job.single and not apart:
                together.append(job)
                continue
            await _run_together(session, together, now)
            together = []
            await _run_apart(session, job, now)
        await _run_together(session, together, now)
        if any(job.announce and not isinstance(job.outcome, Exception) for job in batch):
            await session.connection.execute(f"NOTIFY {CHANNEL}")
        await session.commit()

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._lost()
            await session.close()


async def _run_together(session: Session, jobs: Sequence[_Job], now: float) -> None:
    """Run operations of one statement each in one round trip."""
    if not jobs:
        return
    running: list[Steps[Any]] = [job.work(now) for job in jobs]
    async with session.connection.pipeline():
        cursors = []
        for steps in running:
            text, values = next(steps)
            cursors.append(await session.connection.execute(translate(text), values))
    for job, steps, cursor in zip(jobs, running, cursors, strict=True):
        result = await result_of(cursor)
        try:
            steps.send(result)
        except StopIteration as ended:
            job.outcome = ended.value
        except Exception as error:  # noqa: BLE001 - it is this operation's answer, and harms no other
            job.outcome = error
        else:
            raise AssertionError("an operation of one statement has a second")


async def _run_apart(session: Session, job: _Job, now: float) -> None:
    """Run one operation so that its failure harms no other."""
    connection = session.connection
    await connection.execute("SAVEPOINT operation")
    try:
        job.outcome = await session.run(job.work(now))
    except psycopg.errors.OperationalError:
        raise  # the connection, or a conflict of whole transactions
    except Exception as error:  # noqa: BLE001 - as above
        await connection.execute("ROLLBACK TO SAVEPOINT operation")
        job.outcome = unavailable(error) if isinstance(error, psycopg.Error) else error
    await connection.execute("RELEASE SAVEPOINT operation")
