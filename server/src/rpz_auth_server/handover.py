"""How one authority ends and another begins when the database is moved, so that verification goes on.

The new one is started while the bulk is copied. It does all that takes long, and waits for the mark of the
unfinished move to go; the old one ends by itself as soon as it sees the fence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.storage.postgres import is_incoming

T = TypeVar("T")
_log = structlog.get_logger("rpz_auth_server")

_LOOK = 0.1
"""Seconds between two looks at what another process will do."""
_SIGN = 100
"""Looks after which whoever waits says so."""
_PATIENCE = 30.0
"""Seconds that the old authority may take to give up its ports."""


class Stopped(Exception):  # noqa: N818 - says what happened
    """A process was asked to end while it waited for another."""


async def wait_for_move(url: str, sign: Callable[[], None], stopping: asyncio.Event) -> float:
    """Wait until no authority is being moved to a database; return how long ports may be taken after.

    Args:
        url: Of the database.
        sign: Called every few seconds, as a sign of life.
        stopping: Set when this process is to end.

    Raises:
        Stopped: It is.
    """
    looks = 0
    while await is_incoming(url):
        if looks == 0:
            _log.info("an authority is being moved to this database; waiting for the end of that")
        if looks % _SIGN == 0:
            sign()
        looks += 1
        await _pause(stopping)
    return _PATIENCE if looks else 0.0


async def patiently(seconds: float, stopping: asyncio.Event, listen: Callable[[], T]) -> T:
    """Take a port, which the authority before this one may be about to give up.

    Raises:
        ConfigurationError: Somebody still has it.
        Stopped: This process is to end.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            return listen()
        except ConfigurationError:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await _pause(stopping)


async def end_when_moved(moved: asyncio.Event, stopping: asyncio.Event) -> None:
    """End an authority whose database was fenced: it takes no write, and tells verifiers nothing any more."""
    await moved.wait()
    _log.warning("the database was moved to another; this authority ends, and is started there by --database")
    stopping.set()


async def _pause(stopping: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LOOK):
            await stopping.wait()
        raise Stopped
