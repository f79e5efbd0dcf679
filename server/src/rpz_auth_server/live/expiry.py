"""Warns in the log, once a day, of secrets and API tokens that will expire soon."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog
from rpz_auth.errors import BackendUnavailable

from rpz_auth_server.domain.credential import ClientSecret, expires_soon, id_of
from rpz_auth_server.flows.authority import Authority

_log = structlog.get_logger("rpz_auth_server")

INTERVAL = 86400.0
_RETRY = 600.0
_MOST = 1000


async def warn_forever(authority: Authority, *, interval: float = INTERVAL) -> None:
    """Warn at the start, then every `interval` seconds."""
    while True:
        try:
            await warn(authority)
        except BackendUnavailable:
            await asyncio.sleep(_RETRY)
        except Exception:  # noqa: BLE001 - nobody awaits this task, so nobody else would ever see it
            _log.exception("what expires soon could not be looked up")
            await asyncio.sleep(interval)
        else:
            await asyncio.sleep(interval)


async def warn(authority: Authority) -> None:
    """Log a line for each credential that somebody should replace."""
    now, window = authority.store.now(), authority.expiry_warning
    for credential in await authority.store.expiring(now + window, limit=_MOST):
        if not expires_soon(credential, now, window) or credential.expires_at is None:
            continue
        is_secret = isinstance(credential, ClientSecret)
        _log.warning(
            "an OAuth 2 secret expires soon" if is_secret else "an API token expires soon",
            app_id=credential.app_id,
            credential_id=id_of(credential),
            name=credential.display_name,
            expires=_date(credential.expires_at),
            last_used="never" if credential.last_used_at is None else _date(credential.last_used_at),
        )


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
