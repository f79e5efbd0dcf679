"""Wakes those who wait for events, of whichever process and machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import psycopg
import structlog
from rpz_auth.errors import BackendUnavailable, ConfigurationError

from rpz_auth_server.domain.event import Cursor
from rpz_auth_server.storage.postgres.session import Session, delays
from rpz_auth_server.storage.postgres.writer import CHANNEL

_log = structlog.get_logger("rpz_auth_server")

POLL = 0.25
"""Seconds after which whoever waits looks by itself: a notification is a hint, which some databases do not
give and a lost connection swallows."""


class Listener:
    """Follows the notifications of committed events on a connection of its own.

    Notifications may be lost while there is no connection. Therefore everybody looks once more after every
    connect, and every quarter of a second anyway.
    """

    def __init__(
        self, connect: Callable[[], Awaitable[Session]], newest: Callable[[], Awaitable[Cursor]]
    ) -> None:
        """Start the task; `newest` reads the place of the newest event."""
        self._connect = connect
        self._newest = newest
        self._bell = asyncio.Event()
        self._closed = False
        self._session: Session | None = None
        self._task = asyncio.create_task(self._listen())

    async def wait(self, known: Cursor) -> None:
        """Return once the newest event is another; at once for a cursor that is not of this database."""
        while True:
            bell = self._bell
            if self._closed:
                raise BackendUnavailable("the database is closed")
            if await self._newest() != known:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await bell.wait()

    def ring(self) -> None:
        """Let all who wait look for events now."""
        self._bell.set()
        self._bell = asyncio.Event()

    async def stop(self) -> None:
        """Refuse all who wait."""
        self._closed = True
        if self._session is not None:
            self._session.cut()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.ring()

    async def _listen(self) -> None:
        waits = delays()
        while True:
            try:
                self._session = await self._connect()
                await self._session.connection.execute(f"LISTEN {CHANNEL}")
                waits = delays()
                self.ring()
                async for _ in self._session.connection.notifies():
                    self.ring()
            except (psycopg.Error, OSError, ConfigurationError) as error:
                _log.debug("no notifications of events at the moment; polling instead", reason=str(error))
            finally:
                session, self._session = self._session, None
                if session is not None:
                    await session.close()
            await asyncio.sleep(next(waits))
