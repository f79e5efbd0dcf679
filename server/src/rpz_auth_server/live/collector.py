"""Deleting, a little at a time, what nothing can ask for any more."""

from __future__ import annotations

import asyncio

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.storage.store import Store

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 60.0
_BATCH = 500


async def collect_forever(
    store: Store, *, audit_kept: float = 90 * 86400, interval: float = INTERVAL
) -> None:
    """Collect once every `interval` seconds, in batches small enough to keep nobody waiting.

    Args:
        store: The database.
        audit_kept: For how many seconds audit records are kept.
        interval: In seconds.
    """
    while True:
        try:
            while collected := await store.collect(limit=_BATCH, audit_kept=audit_kept):
                _log.debug("expired rows deleted", rows=collected)
        except BackendUnavailable:
            _log.warning("expired rows could not be deleted; next try later")
        except Exception:  # noqa: BLE001 - nobody awaits this task, so nobody else would ever see it
            _log.exception("expired rows could not be deleted; next try later")
        await asyncio.sleep(interval)
