"""The authority's time, as far as a service can tell it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_WINDOW = 60.0


class AuthorityClock:
    """Carries the authority's time on by this machine's monotonic clock.

    A wall clock that is wrong here, or is set, changes nothing. Of all messages that tell the time, the
    one that travelled least tells it best, so the largest difference counts: over one to two minutes,
    because two clocks drift apart.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Know no time yet; `monotonic` is in seconds from anywhere."""
        self._monotonic = monotonic
        # Differences of the window before and of this one; replaced as a whole, for readers in other threads.
        self._largest = (-math.inf, -math.inf)
        self._window_ends = -math.inf

    def observe(self, authority_time: float) -> None:
        """Take note of a message that was sent at `authority_time`, in seconds since the epoch."""
        local = self._monotonic()
        older, newer = self._largest
        if local >= self._window_ends:
            # After a long silence the window before is too old to count.
            older = newer if local < self._window_ends + _WINDOW else -math.inf
            newer = -math.inf
            self._window_ends = local + _WINDOW
        self._largest = (older, max(newer, authority_time - local))

    def __call__(self) -> float:
        """Seconds since the epoch on the authority's clock; minus infinity before the first message."""
        return self._monotonic() + max(self._largest)
