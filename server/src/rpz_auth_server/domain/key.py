"""The record of a signing key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    """A private signing key, encrypted under a master key that the database does not hold.

    Times are seconds since the epoch, on the database's clock.
    """

    kid: str
    key_number: int
    """Of the master key."""
    sealed: bytes
    created_at: float
    retire_at: float | None = None
    """When the last token signed with it has expired; None while it signs."""
    version: int = 1
