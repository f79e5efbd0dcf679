"""Takes over the master key ring when its file changes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.crypto.keyring import KeyRing

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 1.0


async def follow_keyring(path: Path, keyring: KeyRing, *, interval: float = INTERVAL) -> None:
    """Look once every `interval` seconds; what cannot be used is told once, and the ring stays as it was."""
    seen: object = None
    while True:
        found = _state(path)
        if found != seen:
            seen = found
            _take_over(path, keyring)
        await asyncio.sleep(interval)


def _state(path: Path) -> object:
    try:
        state = path.stat()
    except OSError as error:
        return error.errno
    return state.st_mtime_ns, state.st_ino, state.st_size


def _take_over(path: Path, keyring: KeyRing) -> None:
    before = keyring.numbers
    try:
        keyring.take_over(KeyRing.load(path))
    except ConfigurationError as error:
        _log.error("the key ring cannot be used; the one that was read before stays", reason=str(error))
        return
    if keyring.numbers != before:
        _log.info("key ring taken over", numbers=keyring.numbers, minting=keyring.minting_number)
