"""The thread that writes, many waiting operations in one transaction."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.refusal import DatabaseMoved, Overloaded
from rpz_auth_server.storage.clock import DatabaseClock
from rpz_auth_server.storage.file import run
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.sql import TICK
from rpz_auth_server.storage.steps import T, Work
from rpz_auth_server.storage.store import WriteLoad

BATCH = 256
"""How many operations one transaction takes."""

QUEUE = 4096
"""How many may wait; beyond, an answer would come after its caller has gone."""


_SHORTEST, _LONGEST = 0.001, 0.004
_ALONE = 16


class Gathering:
    """For how long operations are gathered before they are written.

    grpc hands calls to the loop one at a time. Where many call at once, each would so be written alone, with
    a commit of its own, which costs more than all else about it. Whether a wait brings operations together
    is seen by what the last one brought: it gets longer while it does, and ends when it does not. Every
    sixteenth of those that come alone tries it again.
    """

    def __init__(self) -> None:
        """Begin without a wait."""
        self.pause = 0.0
        """Seconds."""
        self._alone = 0

    def learn(self, gathered: int) -> None:
        """Take note of how many operations the last wait brought."""
        if gathered > 1:
            self._alone = 0
            self.pause = min(_LONGEST, max(_SHORTEST, 2 * self.pause))
        else:
            self._alone += 1
            self.pause = 0.0 if self._alone % _ALONE else _SHORTEST


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    answer: asyncio.Future[Any]
    single: bool
    announce: bool


@dataclass(frozen=True, slots=True)
class _Done:
    value: Any


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


_Outcome = _Done | _Failed


class Writer:
    """Runs operations on the one connection that writes.

    An fsync costs more than everything else about a write, so all that waits shares one. While it runs the
    next batch gathers, and where many call at once for some milliseconds more; an operation that comes alone
    waits for nobody. No answer leaves before the commit, those that say "conflict" included: they too tell
    what was read.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        lock: FileLock,
        clock: DatabaseClock,
        announce: Callable[[], None],
    ) -> None:
        """Start the thread; `announce` is called on the running event loop after transactions with events."""
        self._connection = connection
        self._lock = lock
        self._clock = clock
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        self._jobs: collections.deque[_Job] = collections.deque()
        self._operations = 0
        self._transactions = 0
        self._waiting = threading.Condition()
        self._stopping = False
        self._waking = False
        self._due = False
        self._gathering = Gathering()
        # A daemon, so that a program that forgot to close the store can still end: what was answered is on
        # disk.
        self._thread = threading.Thread(target=self._run, name="rpz-auth-writer", daemon=True)
        self._thread.start()

    def submit(
        self, work: Work[T], *, single: bool = False, announce: bool = False, vital: bool = False
    ) -> asyncio.Future[T]:
        """Queue an operation. It is carried out also when the future is cancelled.

        Args:
            work: The steps.
            single: They are one statement, of which nothing remains when it fails.
            announce: They write an event.
            vital: There is room for it where there is none for others.

        Raises:
            Overloaded: Too much waits already.
            BackendUnavailable: The store is closed.
        """
        answer: asyncio.Future[T] = self._loop.create_future()
        with self._waiting:
            if self._stopping:
                raise unavailable(None)
            if len(self._jobs) >= (2 * QUEUE if vital else QUEUE):
                raise overloaded()
            self._jobs.append(_Job(work, answer, single, announce))
        if not self._waking:  # once for all that are gathered, or that this turn of the loop brings
            self._waking = True
            self._loop.call_later(self._gathering.pause, self._wake)
        return answer

    def _wake(self) -> None:
        self._waking = False
        with self._waiting:
            self._gathering.learn(len(self._jobs))
            self._due = bool(self._jobs)
            self._waiting.notify()

    def load(self) -> WriteLoad:
        """See `Store.write_load`."""
        return WriteLoad(
            waiting=len(self._jobs), operations=self._operations, transactions=self._transactions
        )

    def stop(self) -> None:
        """Carry out what waits, then end the thread. Blocks: not for the event loop's thread."""
        with self._waiting:
            self._stopping = True
            self._waiting.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            batch: list[_Job] = []
            outcomes: list[_Outcome]
            try:
                with self._lock.held():
                    batch = self._take()
                    outcomes = self._transact(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, everybody who waits needs an answer
                batch = batch or self._take()
                told = error if isinstance(error, DatabaseMoved) else unavailable(error)
                outcomes = [_Failed(told) for _ in batch]
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits for an answer
                self._loop.call_soon_threadsafe(self._answer, batch, outcomes)

    def _wait(self) -> bool:
        with self._waiting:
            while not self._due and not self._stopping:
                self._waiting.wait()
            return bool(self._jobs)

    def _take(self) -> list[_Job]:
        with self._waiting:
            batch = [self._jobs.popleft() for _ in range(min(BATCH, len(self._jobs)))]
            self._due = bool(self._jobs)
        self._operations += len(batch)
        self._transactions += 1
        return batch

    def _transact(self, batch: Sequence[_Job]) -> list[_Outcome]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            now = self._tick()
            outcomes = [self._carry_out(job, now) for job in batch]
            connection.execute("COMMIT")
        except BaseException:
            # A disk that is full or broken ends a transaction by itself, or leaves it open after a COMMIT.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return outcomes

    def _tick(self) -> float:
        # Every transaction stores its time, so that no later start begins before a time that was used.
        now = self._clock.now()
        written = self._connection.execute(TICK, (now, now)).fetchone()
        if written is None:
            raise DatabaseMoved
        (now,) = written
        self._clock.catch_up(now)
        return float(now)

    def _carry_out(self, job: _Job, now: float) -> _Outcome:
        connection = self._connection
        if not job.single:
            connection.execute("SAVEPOINT operation")
        try:
            value = run(connection, job.work(now))
        except Exception as error:
            # Without its transaction everything before this operation is lost, and everything after it would
            # commit by itself.
            if not connection.in_transaction:
                raise
            if not job.single:
                connection.execute("ROLLBACK TO operation")
                connection.execute("RELEASE operation")
            return _Failed(unavailable(error) if isinstance(error, sqlite3.Error) else error)
        if not job.single:
            connection.execute("RELEASE operation")
        return _Done(value)

    def _answer(self, batch: Sequence[_Job], outcomes: Sequence[_Outcome]) -> None:
        for job, outcome in zip(batch, outcomes, strict=True):
            if job.answer.cancelled():
                continue
            match outcome:
                case _Done(value):
                    job.answer.set_result(value)
                case _Failed(error):
                    job.answer.set_exception(error)
        if any(job.announce for job in batch):
            self._announce()


def unavailable(cause: Exception | None) -> BackendUnavailable:
    """What a caller is told, whatever failed; after a write, whose outcome is then unknown to it."""
    refusal = BackendUnavailable("the database does not answer at the moment; try again")
    refusal.__cause__ = cause
    return refusal


def unreadable() -> BackendUnavailable:
    """What a caller is told when the database could not be read."""
    return BackendUnavailable("the database cannot be read at the moment; try again")


def overloaded() -> Overloaded:
    """What a caller is told at once when too much waits already."""
    return Overloaded(retry_after=1.0)
