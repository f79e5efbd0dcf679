"""Rotates signing keys when it is time."""

from __future__ import annotations

import asyncio

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.signing_keys import keep_signing_keys

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 30.0


async def keep_keys_forever(authority: Authority, *, interval: float = INTERVAL) -> None:
    """Look once every `interval` seconds; of several processes on one database one is faster."""
    while True:
        try:
            await keep_signing_keys(authority)
        except (Conflict, BackendUnavailable):
            _log.debug("signing keys are looked at again later")
        except Exception:  # noqa: BLE001 - nobody awaits this task, so nobody else would ever see it
            _log.exception("signing keys could not be rotated; next try later")
        await asyncio.sleep(interval)
