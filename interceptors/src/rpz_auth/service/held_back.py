"""Requests of which the last part comes long after the first, by which they were let in."""

from __future__ import annotations

import time

AT_ONCE = 0.05
"""Seconds after a decision within which the whole of a unary call usually is there."""


def is_late(decided_at: float) -> bool:
    """Tell whether a call must be decided about anew, now that more of it is there.

    A client can hold a message or a body back for as long as it likes, and so until its credential was
    revoked.

    Args:
        decided_at: By `time.monotonic`.
    """
    return time.monotonic() - decided_at > AT_ONCE
