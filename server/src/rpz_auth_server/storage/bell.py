"""Wakes those who wait for events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.event import Cursor
from rpz_auth_server.domain.refusal import DatabaseMoved

_PAUSE = 0.01
"""Seconds between two looks for events of other processes, while anybody waits."""


class Bell:
    """Lets any number of tasks wait until the newest event is another than the one they know.

    The writer rings after each of its transactions with events. For other processes on the same file there is
    no call, so one timer looks for all who wait. It asks for the newest event itself: `PRAGMA data_version`
    would cost about the same, and change with every refresh.
    """

    def __init__(self, newest: Callable[[], Cursor]) -> None:
        """Take what reads the place of the newest event."""
        self._newest = newest
        self._waiting: dict[asyncio.Future[None], Cursor] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, known: Cursor) -> None:
        """Return once the newest event is another; at once for a cursor that is not of this database."""
        if self._newest() != known:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[future] = known
        if self._timer is None:
            self._timer = loop.call_later(_PAUSE, self._look)
        try:
            await future
        finally:
            self._waiting.pop(future, None)

    def ring(self) -> None:
        """Look for events now."""
        if not self._waiting:
            return
        try:
            newest = self._newest()
        except BackendUnavailable as error:
            self._fail(error)
            return
        for future, known in self._waiting.items():
            if known != newest and not future.done():
                future.set_result(None)

    def close(self) -> None:
        """Refuse all who wait."""
        self._fail(None)
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        self.ring()
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._look)

    def _fail(self, cause: BackendUnavailable | None) -> None:
        for future in self._waiting:
            if future.done():
                continue
            if isinstance(cause, DatabaseMoved):
                future.set_exception(DatabaseMoved())
            else:
                refusal = BackendUnavailable("the database cannot be read at the moment; try again")
                refusal.__cause__ = cause
                future.set_exception(refusal)
