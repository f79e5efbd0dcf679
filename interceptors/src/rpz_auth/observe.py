"""Observe mode: what would have been refused is counted and logged, and passes."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping

from rpz_auth.errors import Reason, Refusal

_log = logging.getLogger("rpz_auth")

_EVERY = 10.0
"""Seconds between two log lines about the same method and reason."""
_MOST = 1_000
"""Pairs of method and reason that are told apart in the log; callers can make up method names."""


class Observer:
    """Counts refusals that were not carried out."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Have seen nothing; `monotonic` is in seconds from anywhere."""
        self._monotonic = monotonic
        self._counts: collections.Counter[Reason] = collections.Counter()
        self._quiet_until: dict[tuple[str, Reason], float] = {}
        self._noting = threading.Lock()

    @property
    def counts(self) -> Mapping[Reason, int]:
        """How many refusals there were of each reason."""
        return dict(self._counts)

    def note(self, method: str, refusal: Refusal) -> None:
        """Count a refusal, and log it if its like was not just logged."""
        key, now = (method, refusal.reason), self._monotonic()
        with self._noting:
            self._counts[refusal.reason] += 1
            if now < self._quiet_until.get(key, 0.0) or len(self._quiet_until) > _MOST:
                return
            self._quiet_until[key] = now + _EVERY
        _log.warning("rpz-auth observes: %s would be refused: %s (%s)", method, refusal.reason, refusal)
