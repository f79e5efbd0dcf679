"""Carries between processes what each has counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.limits import RefusalCount
from rpz_auth_server.flows.limits import Limiter
from rpz_auth_server.storage.store import Store

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 1.0
_BATCH = 500
"""Levels that one process tells at once: a flood of new names must not keep the writer from its work."""

_LINES = 20
"""Of the log in a minute, for refused calls."""


class Sharing:
    """Tells other processes what this one has counted, and the other way round, in one batch at a time."""

    def __init__(self, store: Store, limiter: Limiter) -> None:
        """Have told nothing yet."""
        self._store = store
        self._limiter = limiter
        self._known_until = 0.0
        self._log = _RefusalLog()

    async def share(self) -> None:
        """Tell and learn once.

        Raises:
            BackendUnavailable: The database does not answer; what was to be told is kept.
        """
        charges = self._limiter.untold(limit=_BATCH)
        counts = self._limiter.refusals.take()
        try:
            if counts:
                await self._store.count_refusals(counts)
                self._log.take(counts)
                counts = ()
            levels = await self._store.share_levels(charges, since=self._known_until)
        except BackendUnavailable:
            self._limiter.refusals.give_back(counts)
            self._limiter.give_back(charges)
            raise
        self._limiter.share(levels)
        self._known_until = max([self._known_until, *(shared.level.at for shared in levels)])


class _RefusalLog:
    """Says what was refused: a line for each App and reason in a minute, and so many in all."""

    def __init__(self) -> None:
        self._minute = 0
        self._counts: Counter[tuple[str, str]] = Counter()

    def take(self, counts: Sequence[RefusalCount]) -> None:
        """Count, and log the minutes that have passed."""
        for item in counts:
            if item.minute > self._minute:
                self._write()
                self._minute = item.minute
            self._counts[item.app_id, item.reason] += item.count

    def _write(self) -> None:
        for (app_id, reason), count in self._counts.most_common(_LINES):
            _log.info("calls were refused", app_id=app_id, reason=reason, count=count)
        rest = self._counts.total() - sum(count for _, count in self._counts.most_common(_LINES))
        if rest:
            _log.info("more calls were refused", count=rest)
        self._counts.clear()


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
