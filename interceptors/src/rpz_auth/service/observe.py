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
"""Seconds in which refusals of one method for one reason are logged once."""
_MOST = 50
"""Pairs of method and reason that are logged in that time: callers can make up any number of names, and must
neither fill the log nor, by having filled it once, silence it for those that come later."""


class Observer:
    """Counts refusals that were not carried out."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Have seen nothing; `monotonic` is in seconds from anywhere."""
        self._monotonic = monotonic
        self._counts: collections.Counter[Reason] = collections.Counter()
        self._told: set[tuple[str, Reason]] = set()
        self._untold = 0
        self._ends = 0.0
        self._noting = threading.Lock()

    @property
    def counts(self) -> Mapping[Reason, int]:
        """How many refusals there were of each reason."""
        return dict(self._counts)

    def note(self, method: str, refusal: Refusal) -> None:
        """Count a refusal, and log it if its like was not just logged."""
        key, untold = (method, refusal.reason), 0
        with self._noting:
            self._counts[refusal.reason] += 1
            now = self._monotonic()
            if now >= self._ends:
                untold, self._untold = self._untold, 0
                self._told.clear()
                self._ends = now + _EVERY
            if key in self._told:
                return
            if len(self._told) >= _MOST:
                self._untold += 1
                return
            self._told.add(key)
        if untold:
            _log.warning("rpz-auth observes: %d more would have been refused, of other methods", untold)
        name = ascii(method)[1:-1]  # a path may hold any character, the end of a line among them
        _log.warning("rpz-auth observes: %s would be refused: %s (%s)", name, refusal.reason, refusal)
