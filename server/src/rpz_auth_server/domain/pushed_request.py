"""An authorization request that a client has sent ahead of the browser (RFC 9126)."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field, replace

LIFETIME = 90.0
"""Seconds within which a person signs in and decides; RFC 9126 §2.2 has it from 5 to 600."""

MAX_LIVE = 1000
"""Of one App; who pushes more than it uses is told to wait."""

_PREFIX = "urn:ietf:params:oauth:request_uri:"
_URI = re.compile(re.escape(_PREFIX) + r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedRequest:
    """What was sent. Times are seconds since the epoch, on the database's clock."""

    request_id: str
    """The hash of the `request_uri`, which is nowhere else."""
    app_id: str
    parameters: tuple[tuple[str, str], ...] = field(repr=False)
    created_at: float
    expires_at: float
    used_at: float | None = None
    version: int = 1


def new_request_uri() -> str:
    """Draw a `request_uri` that nobody guesses (RFC 9126 §7.1)."""
    return _PREFIX + secrets.token_urlsafe(32)


def request_id(request_uri: str) -> str | None:
    """The id of the request that a `request_uri` stands for; None for what no authority has made."""
    if not _URI.fullmatch(request_uri):
        return None
    return hashlib.sha256(request_uri.encode("ascii")).hexdigest()


def use(pushed: PushedRequest, now: float) -> PushedRequest:
    """Use it up (RFC 9126 §4)."""
    return replace(pushed, used_at=now, version=pushed.version + 1)


def is_usable(pushed: PushedRequest, now: float) -> bool:
    """Tell whether it has neither led to an answer nor expired."""
    return pushed.used_at is None and now < pushed.expires_at
