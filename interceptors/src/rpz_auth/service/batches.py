"""What may block, in a thread of its own: all that came while the last was being handled, at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from typing import Generic, TypeVar

T = TypeVar("T")

_log = logging.getLogger("rpz_auth")


class Batches(Generic[T]):
    """Collects things while those that came before are being handled; has no thread while there are none."""

    def __init__(self, handle: Callable[[Collection[T]], None], *, name: str) -> None:
        """Have nothing; `handle` is called by one thread at a time, which is called `name`."""
        self._handle = handle
        self._name = name
        self._waiting: set[T] = set()
        self._changing = threading.Lock()
        self._running = False

    def add(self, item: T) -> None:
        """Have something handled soon; what waits already waits once.

        Raises:
            RuntimeError: There is no thread to be had; it waits until another is added.
        """
        with self._changing:
            self._waiting.add(item)
            if self._running:
                return
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
            self._running = True

    def _run(self) -> None:
        while items := self._take():
            try:
                self._handle(items)
            except Exception:  # noqa: BLE001 - what comes later must still be handled
                _log.exception("rpz-auth: a batch of %s could not be handled", self._name)

    def _take(self) -> Collection[T]:
        with self._changing:
            items, self._waiting = self._waiting, set()
            self._running = bool(items)
            return items
