"""One thread for all timers of an interceptor, on both stacks; there is none without timers."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger("rpz_auth")

_LINGER = 5.0
"""Seconds that the thread waits for another timer when the last has run."""


class Timers:
    """Runs actions when their time has come, one after the other; none of them may block."""

    def __init__(self) -> None:
        """Have none."""
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._running = False

    def add(self, seconds: float, action: Callable[[], object]) -> None:
        """Run `action` so many seconds from now.

        Raises:
            RuntimeError: There is no thread to be had; it waits until another is added.
        """
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), action))
            if not self._running:
                threading.Thread(target=self._run, name="rpz-auth-timers", daemon=True).start()
                self._running = True
            elif self._due[0][2] is action:
                self._changed.notify()

    def _run(self) -> None:
        while (action := self._next()) is not None:
            try:
                action()
            except Exception:  # noqa: BLE001 - the other timers must still run
                _log.exception("rpz-auth: a timer failed")

    def _next(self) -> Callable[[], object] | None:
        idle_until = time.monotonic() + _LINGER
        with self._changed:
            while True:
                now = time.monotonic()
                if self._due:
                    if self._due[0][0] <= now:
                        return heapq.heappop(self._due)[2]
                    self._changed.wait(self._due[0][0] - now)
                elif now < idle_until:
                    self._changed.wait(idle_until - now)
                else:
                    self._running = False
                    return None
