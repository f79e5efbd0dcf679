"""What one user allowed one App, and the rules by which it is redeemed, renewed and ended.

A grant is one row for its whole life: a pending code, then generation after generation of refresh
tokens, until it is revoked or expires. The rules are pure: they look at the row, the request and the
time, and return the row as it must be written, so that a lost race can decide again.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
import re
from dataclasses import dataclass, replace

from rpz_auth_server.domain.refusal import GrantInvalid, RateLimited, RequestInvalid

MAX_ACCESS_TOKEN_LIFETIME = 86400
"""Seconds that may be set; it may have been longer before the last start than it is now."""

MIN_LIFETIME = 60
MAX_REFRESH_LIFETIME = 3650 * 86400
"""Seconds between which the lifetimes of tokens may be set."""

_LEEWAY = 60
"""Seconds by which the clocks of verifiers may be behind."""
_UNFORESEEN = 300
"""Seconds for what nobody thought of."""

AFTER_EXPIRY = _LEEWAY + _UNFORESEEN
"""Seconds after its expiry from when on nobody takes an access token any more."""

MARGIN = MAX_ACCESS_TOKEN_LIFETIME + AFTER_EXPIRY
"""Seconds after which nothing that an object issued can be presented any more, whenever it was issued."""

MAX_REPEATS = 5
"""How often one rotation may be asked for again within the grace."""

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)  # RFC 7636 §4.1
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # BASE64URL of a SHA-256, RFC 7636 §4.2


class GrantState(enum.StrEnum):
    """The life of a grant. Superseding a generation is not a state, and revoked is for ever."""

    PENDING = "pending"
    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """In seconds."""

    code: float = 60
    access_token: float = 7200
    refresh_idle: float = 30 * 86400
    """Until a refresh token that is not used expires."""
    refresh_absolute: float = 180 * 86400
    """Until a grant expires however often it is renewed."""
    refresh_grace: float = 60
    """How long a rotation may be repeated after its answer was lost; 0 for never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One grant. Times are seconds since the epoch, on the database's clock."""

    grant_id: str
    app_id: str
    subject: str
    scopes: frozenset[str]
    resources: frozenset[str]
    redirect_uri: str
    code_challenge: str | None
    state: GrantState = GrantState.PENDING
    generation: int = 0
    """Of the newest refresh token; 0 while there is only a code."""
    salt: bytes
    key_number: int
    """The key that handles from generation `key_since` on are sealed with."""
    key_since: int = 0
    created_at: float
    rotated_at: float
    """When the newest generation was first made."""
    peer: str = ""
    """Who asked for the newest generation first."""
    issued_by: str = ""
    """The subject of the sign-in service that issued the code."""
    repeats: int = 0
    """How often the newest generation was handed out again."""
    access_expires_at: float
    """Of the access token that went out with the newest generation."""
    idle_expires_at: float
    expires_at: float
    version: int = 1

    @property
    def ends_at(self) -> float:
        """When it expires unless it is used before: a code's deadline, or a refresh token's."""
        return min(self.idle_expires_at, self.expires_at)


@dataclass(frozen=True, slots=True)
class Issued:
    """The credentials of the grant's newest generation may be handed out."""

    grant: Grant
    repeated: bool = False
    recovered: bool = False
    """The presented generation was ahead of the row: the database has lost writes."""


@dataclass(frozen=True, slots=True)
class Reused:
    """The grant must be revoked, and the caller refused."""

    grant: Grant


def check_code_challenge(challenge: str, method: str) -> None:
    """Take only a SHA-256 challenge (RFC 7636 §4.3; `plain` is refused, RFC 9700 §2.1.1).

    Raises:
        RequestInvalid: Otherwise.
    """
    if method != "S256":
        raise RequestInvalid("code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise RequestInvalid("code_challenge must be the 43 characters of BASE64URL(SHA256(code_verifier))")


def redeem(
    grant: Grant,
    *,
    app_id: str,
    redirect_uri: str,
    code_verifier: str,
    peer: str,
    key_number: int,
    now: float,
    lifetimes: Lifetimes,
) -> Issued | Reused:
    """Redeem a grant's code (RFC 6749 §4.1.3), with the first refresh token sealed by `key_number`.

    A request that is wrong in itself changes nothing, whoever sends it; the code stays good for the
    rightful App. One that would have been right but comes second gives `Reused` (RFC 6749 §4.1.2).

    Raises:
        GrantInvalid: Somebody else's, expired, revoked, or bound to another redirect URI or verifier.
        RequestInvalid: A verifier where no challenge was recorded (RFC 9700 §4.8.2).
    """
    if grant.app_id != app_id or grant.redirect_uri != redirect_uri:
        raise GrantInvalid
    _check_code_verifier(grant, code_verifier)
    match grant.state:
        case GrantState.REVOKED:
            raise GrantInvalid
        case GrantState.ACTIVE:
            return Reused(revoke(grant))
        case GrantState.PENDING if now >= grant.idle_expires_at:
            raise GrantInvalid
        case GrantState.PENDING:
            activated = replace(grant, state=GrantState.ACTIVE, expires_at=now + lifetimes.refresh_absolute)
            return Issued(_advance(activated, 1, peer, key_number, now, lifetimes))


def refresh(
    grant: Grant,
    *,
    app_id: str,
    generation: int,
    peer: str,
    key_number: int,
    now: float,
    lifetimes: Lifetimes,
    recovers: bool = True,
) -> Issued | Reused:
    """Renew with the refresh token of a generation (RFC 6749 §6), whose MAC was verified.

    The newest generation advances the grant. The one before it, while its successor is unused and the
    grace has not passed, is a lost answer: it gets the same successor again, and nothing is extended.
    Whatever is older is reuse (RFC 9700 §4.14.2). A generation ahead of the row was handed out by a
    database that has since lost writes; it is genuine, and the row catches up, unless it does not recover:
    then what the lost future handed out is not wanted, and the grant ends.

    Raises:
        GrantInvalid: Somebody else's, expired, revoked, or never redeemed.
        RateLimited: The same rotation was asked for more than `MAX_REPEATS` times again.
    """
    if grant.app_id != app_id or grant.state is not GrantState.ACTIVE or generation < 1:
        raise GrantInvalid
    if now >= grant.ends_at:
        raise GrantInvalid
    if generation > grant.generation and not recovers:
        return Reused(revoke(grant))
    if generation >= grant.generation:
        advanced = _advance(grant, generation + 1, peer, key_number, now, lifetimes)
        return Issued(advanced, recovered=generation > grant.generation)
    if generation == grant.generation - 1 and now < grant.rotated_at + lifetimes.refresh_grace:
        if grant.repeats >= MAX_REPEATS:
            raise RateLimited(
                "this rotation was repeated too often; use the refresh token of an earlier answer"
            )
        return Issued(replace(grant, repeats=grant.repeats + 1, version=grant.version + 1), repeated=True)
    return Reused(revoke(grant))


def revoke(grant: Grant) -> Grant:
    """End a grant for ever."""
    return replace(grant, state=GrantState.REVOKED, version=grant.version + 1)


def _advance(
    grant: Grant, generation: int, peer: str, key_number: int, now: float, lifetimes: Lifetimes
) -> Grant:
    same_key = key_number == grant.key_number
    idle_expires_at = now + lifetimes.refresh_idle
    return replace(
        grant,
        generation=generation,
        key_number=key_number,
        key_since=grant.key_since if same_key else generation,
        rotated_at=now,
        peer=peer,
        repeats=0,
        # Never beyond the grant: what lists the grants that are alive must find all that has access.
        access_expires_at=min(now + lifetimes.access_token, idle_expires_at, grant.expires_at),
        idle_expires_at=idle_expires_at,
        version=grant.version + 1,
    )


def _check_code_verifier(grant: Grant, verifier: str) -> None:
    if grant.code_challenge is None:
        if verifier:
            raise RequestInvalid("code_verifier was sent, but the code was issued without a code_challenge")
        return
    if not _VERIFIER.fullmatch(verifier):
        raise GrantInvalid
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
    if not hmac.compare_digest(challenge, grant.code_challenge):
        raise GrantInvalid
