"""A bound on what one event writes to the log: whoever causes it by calls could fill the disk."""

from __future__ import annotations

import time
from typing import Any

FAULTS, FAULT_SECONDS = 10, 60.0
"""Tracebacks of faults; the first few tell what there is to tell."""


class LogBudget:
    """So many records in so many seconds; what is beyond is counted, and the count logged by the next one."""

    def __init__(self, log: Any, *, records: int, seconds: float) -> None:
        """Begin with the whole budget.

        Args:
            log: Where the count goes.
            records: That may be written.
            seconds: In which.
        """
        self._log = log
        self._records = records
        self._seconds = seconds
        self._began = float("-inf")
        self._left = 0
        self._dropped = 0

    def take(self) -> bool:
        """Tell whether one more may be written."""
        now = time.monotonic()
        if now >= self._began + self._seconds:
            if self._dropped:
                self._log.info("there was more than is logged", dropped=self._dropped)
            self._began, self._left, self._dropped = now, self._records, 0
        if self._left == 0:
            self._dropped += 1
            return False
        self._left -= 1
        return True
