"""Where calls come from, as far as that shows a proxy that nobody has named."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rpz_auth.address import Peer

_log = logging.getLogger("rpz_auth")

_CALLS = 1_000
"""Calls of several Apps after which one address for all of them is no coincidence."""
_FORWARDED = "x-forwarded-for"


class Census:
    """Warns once when every call of several Apps comes from one address that forwards for others."""

    def __init__(self) -> None:
        """Have seen nobody."""
        self.counting = True
        """Whether there is anything left to find out."""
        self._left = _CALLS
        self._address: object = None
        self._apps: set[str] = set()
        self._forwards = False

    def note(self, peer: Peer, app_id: str, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Take note of an authenticated call, as long as `counting` says so."""
        if self._address is None:
            self._address = peer.address
        if peer.address is None or peer.address != self._address:
            self.counting = False  # at least two: no single proxy is in front
            return
        if len(self._apps) < 2:  # noqa: PLR2004 - "several" begins there
            self._apps.add(app_id)
        self._forwards = self._forwards or any(key == _FORWARDED for key, _ in metadata)
        self._left -= 1
        if self._left > 0:
            return
        self.counting = False
        if len(self._apps) > 1 or self._forwards:
            _log.warning(
                "rpz-auth: all of %d calls came from %s. If that is a proxy or load balancer, whitelists are "
                "checked against it and not against the callers: name it in trusted_proxies, or let it pass "
                "connections through",
                _CALLS,
                self._address,
            )
