"""What is so of the authority as a whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """The one row that each database has of it, from its founding on."""

    issuer: str
    """Its name (RFC 8414 §2), to which all keys and credentials are bound; for ever."""
    locked: bool = False
    """While it is set, no credential is good but what administrators need to undo it."""
    bootstrap_token_id: str | None = None
    """Of the API token in the newest bootstrap file; None before the first."""
    restored_at: float | None = None
    """When a backup was restored whose lost future is not trusted: no refresh token is taken for genuine that
    is ahead of a grant from before. None if there is no such future."""
    version: int = 1
