"""Counts of refusals by App, reason and minute, in a bounded space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rpz_auth.caller import APP_ID
from rpz_auth.errors import Reason

from rpz_auth_server.domain.limits import RefusalCount

_MOST = 512
"""Counts that are held at once; names are what strangers say, and what is more counts for none of them."""


class RefusalCounts:
    """What this process has refused since it was last asked."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Count nothing yet; `now` is the database's time."""
        self._now = now
        self.totals: Counter[str] = Counter()
        """By reason, since this process began."""
        self._counts: dict[tuple[str, str, int], int] = {}
        self._full_since: int | None = None
        """The minute of the first refusal that found no place of its own."""

    def record(self, reason: Reason, app_id: str = "") -> None:
        """Count a refusal of a call that an App made, or that somebody made in its name."""
        self.totals[reason] += 1
        minute = int(self._now() // 60)
        key = (app_id if APP_ID.fullmatch(app_id) else "", str(reason), minute)
        if key not in self._counts and len(self._counts) >= _MOST:
            # One minute for all of them, however long nobody can write them down: reasons are few.
            self._full_since = minute if self._full_since is None else self._full_since
            key = ("", str(reason), self._full_since)
        self._counts[key] = self._counts.get(key, 0) + 1

    def take(self) -> Sequence[RefusalCount]:
        """Hand over what was counted, and begin anew."""
        counts, self._counts, self._full_since = self._counts, {}, None
        return [
            RefusalCount(app_id, reason, minute, count) for (app_id, reason, minute), count in counts.items()
        ]

    def give_back(self, counts: Iterable[RefusalCount]) -> None:
        """Take back what could not be written."""
        for item in counts:
            key = (item.app_id, item.reason, item.minute)
            if key in self._counts or len(self._counts) < _MOST:
                self._counts[key] = self._counts.get(key, 0) + item.count
