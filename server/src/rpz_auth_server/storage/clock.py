"""The database's time, which never goes back."""

from __future__ import annotations

import threading
from collections.abc import Callable


class DatabaseClock:
    """Wall time that a step back of the wall clock does not move.

    Wall time is carried by the monotonic clock: a wall clock that is set back is not followed, so what
    has expired stays expired. One that is set forward is followed: after a machine slept, or was started
    with a wrong date, the monotonic clock alone would be behind for ever. The price is that a date that
    was wrong by years ahead stays until the real time has caught up.
    """

    def __init__(
        self, *, wall: Callable[[], float], monotonic: Callable[[], float], not_before: float
    ) -> None:
        """Begin at the wall's time, but not before a time that the database has already seen."""
        self._wall = wall
        self._monotonic = monotonic
        self._lead = not_before - monotonic()
        self._latest = not_before
        self._lock = threading.Lock()  # the event loop and the writer's thread both ask

    def now(self) -> float:
        """Seconds since the epoch."""
        with self._lock:
            monotonic = self._monotonic()
            # Each call asks several times, and `max` would double what an answer costs.
            lead = self._wall() - monotonic
            if lead > self._lead:  # noqa: PLR1730 - see above
                self._lead = lead
            latest = monotonic + self._lead
            if latest > self._latest:  # noqa: PLR1730 - see above
                self._latest = latest
            return self._latest

    def catch_up(self, time: float) -> None:
        """Go on from a time that another process has written, if that is ahead."""
        with self._lock:
            self._lead = max(self._lead, time - self._monotonic())
            self._latest = max(self._latest, time)
