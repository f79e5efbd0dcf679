"""Signing keys: their records, and the rules by which one follows another.

A key is published when it is made, signs later, and stays published until the last token that it signed
has expired. The rules are pure: they return the records as they must be written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rpz_auth_server.domain.grant import MARGIN

NEVER = math.inf
"""When a key signs that was made while the issuer is locked: nothing is signed before it is unlocked."""


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
    sign_at: float
    """From when on it signs, until a later one does."""
    retire_at: float | None = None
    """When the last token signed with it has expired; None while it has no successor."""
    published: bool = True
    """Tokens signed with a key that is not published are refused."""
    version: int = 1


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How many rows of a kind need a master key."""

    key_number: int
    """0 for an older one than their own: a lost answer to a refresh may be asked for with it again."""
    kind: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTimes:
    """In seconds."""

    period: float = 90 * 86400
    """For which a key signs."""
    publish_ahead: float = 3600
    """For which it is published before; verifiers must learn of it within."""


def is_due(keys: Iterable[SealedKey], times: KeyTimes, now: float) -> bool:
    """Tell whether a successor must be published, so that it can sign when the period ends."""
    newest = max((key.sign_at for key in keys if key.published), default=-math.inf)
    return now >= newest + times.period - times.publish_ahead


def succeed(keys: Iterable[SealedKey], successor: SealedKey) -> list[SealedKey]:
    """Let the published keys end once all that they sign until the successor does has expired."""
    return [
        replace(key, retire_at=successor.sign_at + MARGIN, version=key.version + 1)
        for key in keys
        if key.published and key.retire_at is None
    ]


def drop(keys: Iterable[SealedKey], now: float) -> list[SealedKey]:
    """End the published keys at once, with all that they signed; the private parts are erased."""
    return [
        replace(key, sealed=b"", retire_at=now, published=False, version=key.version + 1)
        for key in keys
        if key.published
    ]


def drop_ended(keys: Iterable[SealedKey], now: float) -> list[SealedKey]:
    """End the published keys whose last token has expired."""
    return drop([key for key in keys if key.retire_at is not None and key.retire_at <= now], now)


def start_signing(keys: Sequence[SealedKey], now: float) -> list[SealedKey]:
    """Let the keys sign that were made while the issuer was locked."""
    return [
        replace(key, sign_at=now, version=key.version + 1)
        for key in keys
        if key.published and key.sign_at == NEVER
    ]
