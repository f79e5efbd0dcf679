"""A bounded cache of what is known of presented credentials."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

V = TypeVar("V")


class BoundedCache(Generic[V]):
    """Forgets the oldest entry when it is full. Keys are digests, so it holds no credential.

    Reads take no lock: a dictionary's own operations are atomic.
    """

    def __init__(self, size: int) -> None:
        """Hold up to `size` entries."""
        self._size = size
        # Not a plain dictionary: it finds its oldest entry only by walking over all that were deleted.
        self._entries: OrderedDict[bytes, V] = OrderedDict()
        self._writing = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> V | None:
        """The entry, or None."""
        return self._entries.get(key)

    def put(self, key: bytes, value: V) -> None:
        """Store an entry as the newest."""
        with self._writing:
            self._entries.pop(key, None)
            while len(self._entries) >= self._size:
                self._entries.popitem(last=False)
            self._entries[key] = value

    def discard(self, key: bytes) -> None:
        """Forget an entry, if it is there."""
        with self._writing:
            self._entries.pop(key, None)
