"""Deciding again when somebody else was faster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from rpz_auth_server.domain.refusal import Conflict

T = TypeVar("T")

_MAX_ATTEMPTS = 16


async def retry_conflicts(attempt: Callable[[], Awaitable[T]]) -> T:
    """Read, decide and write again for as long as somebody else was faster.

    Raises:
        Conflict: Somebody else was faster every time.
    """
    for _ in range(_MAX_ATTEMPTS - 1):
        try:
            return await attempt()
        except Conflict:
            continue
    return await attempt()
