"""Tells verifiers which secrets and API tokens have reached their deadlines.

What these bring does not outlive the deadline that they had then. But deadlines move: a secret that is
rotated with an overlap of a minute may have brought an access token for an hour just before.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.credential import deadline, id_of
from rpz_auth_server.domain.event import revocation_of
from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.storage.store import Commit

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 1.0
"""Seconds by which verifiers may learn of it late."""
_LATE = 60.0
"""Seconds by which a deadline may be seen late: a commit waits in a failover, and its deadline does not."""
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
    """Tell of what has ended since a time, and was not told, `most` at once; return until when all is.

    The rows get new versions, and nothing else of them changes: whoever is moving a deadline at this moment
    loses to this, or this to them, and looks again. Else what lives on could be revoked.
    """
    now, place = authority.store.now(), (since - _LATE, "")
    while ended := await authority.store.ended(place, now, limit=most):
        untold = [each for each in ended if not authority.view.is_revoked(id_of(each))]
        if untold:
            rows = tuple(replace(each, version=each.version + 1) for each in untold)
            events = tuple(revocation_of(id_of(each), now) for each in untold)
            try:
                await authority.store.commit(Commit(rows=rows, events=events))
            except Conflict:
                continue
        place = (deadline(ended[-1]), id_of(ended[-1]))
    return now
