"""Writes down, a few seconds' worth at a time, which credentials were used."""

from __future__ import annotations

import asyncio

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.flows.uses import Uses
from rpz_auth_server.storage.store import Store

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 5.0
_BATCH = 500


async def record_forever(store: Store, uses: Uses, *, interval: float = INTERVAL) -> None:
    """Record every `interval` seconds."""
    while True:
        await asyncio.sleep(interval)
        await record(store, uses)


async def record(store: Store, uses: Uses) -> None:
    """Record what was used, in batches small enough to keep nobody waiting; what fails is kept for later."""
    while batch := uses.take(_BATCH):
        try:
            await store.record_uses(batch)
        except BackendUnavailable:
            uses.put_back(batch)
            return
        except Exception:  # noqa: BLE001 - nobody awaits this, so nobody else would ever see it
            _log.exception("uses of credentials could not be recorded")
            return
