"""Creations that can be repeated: what a request ID stands for (AIP-155)."""

from __future__ import annotations

from dataclasses import dataclass

KEPT = 86400.0
"""Seconds for which a request ID is known, at least."""

TEXT_KEPT = 600.0
"""Seconds for which a repeated creation also gives the secret again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """That somebody created something under a request ID."""

    request_key: str
    """SHA-256 over who asked, for what, and the request ID."""
    content: str
    """SHA-256 over what was asked for."""
    object_id: str
    created_at: float
    version: int = 1
