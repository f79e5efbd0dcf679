"""Tells verifiers which secrets and API tokens have reached their deadlines.

What these bring does not outlive the deadline that they had then. But deadlines move: a secret that is
rotated with an overlap of a minute may have brought an access token for an hour just before.
"""

from __future__ import annotations

import asyncio

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.app import deadline, id_of
from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.flows.pipeline import Authority, revocation_of
from rpz_auth_server.storage.store import Commit

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 1.0
"""Seconds by which verifiers may learn of it late."""
_MOST = 1000


async def tell_forever(authority: Authority, *, interval: float = INTERVAL) -> None:
    """Look every `interval` seconds, first for what has ended while nobody looked."""
    since = authority.store.now() - MARGIN
    while True:
        try:
            since = await tell(authority, since)
        except BackendUnavailable:
            pass  # the next look begins where this one did
        except Exception:  # noqa: BLE001 - nobody awaits this task, so nobody else would ever see it
            _log.exception("verifiers could not be told of deadlines; next try soon")
        await asyncio.sleep(interval)


async def tell(authority: Authority, since: float, *, most: int = _MOST) -> float:
    """Tell of what has ended since a time, and was not told, `most` at once; return until when all is."""
    now, place = authority.store.now(), (since, "")
    while ended := await authority.store.ended(place, now, limit=most):
        events = tuple(
            revocation_of(authority, id_of(credential), now)
            for credential in ended
            if not authority.view.is_revoked(id_of(credential))
        )
        if events:
            await authority.store.commit(Commit(events=events))
        place = (deadline(ended[-1]), id_of(ended[-1]))
    return now
