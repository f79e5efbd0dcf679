"""Connections from the moment that they are made, before their handshakes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

_log = structlog.get_logger("rpz_auth_server.http")

_AT_ONCE = 100
"""Connections that are taken before anything else has its turn."""
PAUSE = 1.0
"""Seconds without new connections when this process may open no more files."""

Serve = Callable[[socket.socket, Any], Coroutine[Any, Any, None]]
"""Serves a connection, whose other end has this address, until its protocol stands."""


class Acceptor:
    """Takes the connections of one socket. asyncio's own would tell of each after its handshake only."""

    def __init__(self, taken: socket.socket, serve: Serve) -> None:
        """Begin to take them."""
        self._socket = taken
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        taken.setblocking(False)
        self._resume()

    def take(self) -> bool:
        """Take those that the kernel has accepted; tell whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                _log.warning("no connection can be taken; the next in a second", reason=error.strerror)
                self._loop.remove_reader(self._socket)
                self._paused = self._loop.call_later(PAUSE, self._resume)
                return False
            accepted.setblocking(False)
            task = self._loop.create_task(self._serve(accepted, address))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)
        return True

    def close(self) -> None:
        """Take no more; a second time does nothing."""
        if self._paused is not None:
            self._paused.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    async def abandon(self) -> None:
        """Give up those that do not stand yet."""
        for task in self._beginning:
            task.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self._socket, self.take)
