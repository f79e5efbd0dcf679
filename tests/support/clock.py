"""Time that passes when a test says so."""

from __future__ import annotations


class Clock:
    """A clock, in seconds from anywhere, that stands until it is set."""

    def __init__(self, time: float) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time
