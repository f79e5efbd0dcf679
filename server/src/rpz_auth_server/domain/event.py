"""Changes that verifiers must learn, their place in the stream, and records of who did what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rpz_auth.view import AppState, Change, Revocation, SigningKeys

from rpz_auth_server.domain.grant import MARGIN

_CURSOR = re.compile(r"([0-9]{1,18})\.([0-9a-f]{32})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the stream of events.

    The nonce is the event's own random number: in a restored database another event stands in this
    place, and the cursor is not taken for it.
    """

    sequence: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.sequence}.{self.nonce}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read what `str` wrote; None for anything else."""
        match = _CURSOR.fullmatch(text)
        return cls(int(match[1]), match[2]) if match else None


BEGINNING = Cursor(0, "0" * 32)
"""Before the first event of a database."""


def revocation_of(identifier: str, now: float) -> Revocation:
    """What ends all that carries an identifier, until no access token that carries it can be alive."""
    return Revocation(identifier, now + MARGIN)


KEYS_CHANGED = SigningKeys("")
"""What a commit says that changes signing keys or the issuer's lock. What they are now each process reads
from the records that it can decrypt, so that writing events to the database forges no key."""


@dataclass(frozen=True, slots=True)
class Event:
    """One committed change."""

    cursor: Cursor
    change: Change


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """All live revocations and all Apps that are not in their default state, as of one cursor."""

    cursor: Cursor
    revocations: tuple[Revocation, ...]
    apps: tuple[AppState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Who did what to which App. Details hold identifiers, never credentials."""

    actor: str
    action: str
    app_id: str = ""
    peer: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """A stored audit record; `digest` is SHA-256 over the one before and this one's content."""

    sequence: int
    recorded_at: float
    audit: Audit
    digest: bytes
