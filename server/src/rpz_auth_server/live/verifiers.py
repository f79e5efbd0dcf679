"""The verifiers that are connected to this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rpz_auth.caller import Caller

from rpz_auth_server.domain.event import Cursor
from rpz_auth_server.domain.refusal import RateLimited

MOST = 1_000
"""Streams of one App: each process of a service has one."""
_RETRY_AFTER = 5.0


@dataclass(slots=True, kw_only=True)
class Verifier:
    """One open stream. Times are seconds since the epoch, on the database's clock."""

    app_id: str
    resources: frozenset[str]
    peer: str
    connected_at: float
    cursor: Cursor | None = None
    """Up to where it was told; None before the first word."""
    told_at: float

    def tell(self, cursor: Cursor, now: float) -> None:
        """Take note of what was sent, once the transport has taken it."""
        self.cursor = cursor
        self.told_at = now


class Verifiers:
    """All open streams."""

    def __init__(self, *, most: int = MOST) -> None:
        """Know none; an App may have up to `most` at a time."""
        self._most = most
        self._connected: dict[int, Verifier] = {}

    @contextlib.contextmanager
    def connected(self, caller: Caller, resources: frozenset[str], now: float) -> Iterator[Verifier]:
        """Count a stream for as long as it lasts.

        Raises:
            RateLimited: Its App has as many as it may already.
        """
        mine = sum(verifier.app_id == caller.app_id for verifier in self._connected.values())
        if mine >= self._most:
            raise RateLimited("this verifier has as many streams as it may", retry_after=_RETRY_AFTER)
        verifier = Verifier(
            app_id=caller.app_id,
            resources=resources,
            peer=str(caller.peer),
            connected_at=now,
            told_at=now,
        )
        self._connected[id(verifier)] = verifier
        try:
            yield verifier
        finally:
            del self._connected[id(verifier)]

    def list(self) -> Sequence[Verifier]:
        """Those that are connected now, the longest connected first."""
        return list(self._connected.values())
