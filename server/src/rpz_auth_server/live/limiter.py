"""Carries between processes what each has counted."""

from __future__ import annotations

import asyncio

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.flows.limits import Limiter
from rpz_auth_server.storage.store import Store

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 1.0
_BATCH = 500
"""Levels that one process tells at once: a flood of new names must not keep the writer from its work."""


class Sharing:
    """Tells other processes what this one has counted, and the other way round, in one batch at a time."""

    def __init__(self, store: Store, limiter: Limiter) -> None:
        """Have told nothing yet."""
        self._store = store
        self._limiter = limiter
        self._known_until = 0.0

    async def share(self) -> None:
        """Tell and learn once.

        Raises:
            BackendUnavailable: The database does not answer; what was to be told is kept.
        """
        charges = self._limiter.untold(limit=_BATCH)
        try:
            levels = await self._store.share_levels(charges, since=self._known_until)
        except BackendUnavailable:
            self._limiter.give_back(charges)
            raise
        self._limiter.share(levels)
        self._known_until = max([self._known_until, *(shared.level.at for shared in levels)])


async def share_forever(sharing: Sharing, *, interval: float = INTERVAL) -> None:
    """Share once every `interval` seconds."""
    while True:
        await asyncio.sleep(interval)
        try:
            await sharing.share()
        except BackendUnavailable:
            _log.warning("counts could not be shared; next try later")
        except Exception:  # noqa: BLE001 - nobody awaits this task, so nobody else would ever see it
            _log.exception("counts could not be shared; next try later")
