"""People: their accounts, how they sign in, and what they have allowed."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from dataclasses import dataclass, field, replace

from rpz_auth_server.domain.refusal import RequestInvalid

SUBJECT_PREFIX = "user:"
"""Begins the subject of everybody who has an account here."""

MIN_PASSWORD = 12
"""Characters; length is all that helps (NIST SP 800-63B §3.1.1), so nothing else is demanded."""

MAX_PASSWORD = 256
QUESTION_LIFETIME = 600.0
"""Seconds for which a page that asks for consent can be answered."""
CONSENT_LIFETIME = 180 * 86400.0
"""Seconds for which a consent is remembered after it was last given."""

_USER_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,62}[a-z0-9])?", re.ASCII)


class Role(enum.StrEnum):
    """What a person may do in the console."""

    ADMINISTRATOR = "administrator"
    MEMBER = "member"
    """Registers Apps, and sees no others than its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One person. Times are seconds since the epoch, on the database's clock."""

    account_id: str
    user_name: str
    display_name: str
    role: Role = Role.MEMBER
    scopes: frozenset[str] = frozenset()
    """What a member may hand to its Apps; an administrator is not bound by it."""
    resources: frozenset[str] = frozenset()
    password_hash: str | None = field(default=None, repr=False)
    """None for who signs in elsewhere, or has yet to choose a password."""
    key_number: int
    """The master key without which the hash cannot even be guessed at."""
    setup_hash: str | None = field(default=None, repr=False)
    """Of the one-time code that lets the person choose a password."""
    setup_expires_at: float | None = None
    setup_local: bool = False
    """The code is good from the authority's own machine only."""
    disabled: bool = False
    created_at: float
    updated_at: float
    signed_in_at: float | None = None
    version: int = 1

    @property
    def subject(self) -> str:
        """As it stands in tokens, and as the owner of Apps."""
        return SUBJECT_PREFIX + self.account_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser in which somebody is signed in. The row cannot make the cookie."""

    session_id: str
    """The hash of the cookie's value."""
    account_id: str
    peer: str
    agent: str
    """What the browser said of itself."""
    created_at: float
    seen_at: float
    idle_expires_at: float
    expires_at: float
    """However often it is used."""
    ended_at: float | None = None
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What one person allowed one App, so that it is not asked again. One row for both."""

    consent_id: str
    subject: str
    app_id: str
    scopes: frozenset[str]
    resources: frozenset[str]
    created_at: float
    expires_at: float
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalIdentity:
    """By which name an outside OpenID Connect provider knows an account: never by e-mail address."""

    identity_id: str
    account_id: str | None
    """None once the link was taken away."""
    issuer: str
    subject: str
    created_at: float
    version: int = 1


def consent_id(subject: str, app_id: str) -> str:
    """The id of the one consent that a person can have given an App."""
    return _digest(subject, app_id)


def identity_id(issuer: str, subject: str) -> str:
    """The id of the one link that an outside identity can have (OpenID Connect Core §5.7)."""
    return _digest(issuer, subject)


def read_user_name(text: str) -> str:
    """Take a user name as it is stored.

    Raises:
        RequestInvalid: With what to write instead.
    """
    name = text.strip().lower()
    if not _USER_NAME.fullmatch(name):
        raise RequestInvalid(
            "a user name has 1 to 64 letters, digits or . _ @ + - and begins with a letter or digit"
        )
    return name


def check_password(password: str, *, user_name: str) -> None:
    """Take a password that somebody chose.

    Raises:
        RequestInvalid: With what to change.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise RequestInvalid(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters")
    if user_name in password.lower() and len(password) - len(user_name) < MIN_PASSWORD // 2:
        raise RequestInvalid("a password is more than the user name")
    if len(set(password)) < MIN_PASSWORD // 3:
        raise RequestInvalid("a password does not repeat the same few characters")


def hash_setup_code(code: str) -> str:
    """What is stored of a one-time code; being random and of 256 bits it needs no slow hash."""
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).hexdigest()


def is_signed_in(session: Session, now: float) -> bool:
    """Tell whether a session was neither ended nor left alone for too long."""
    return session.ended_at is None and now < min(session.idle_expires_at, session.expires_at)


def covers(consent: Consent | None, scopes: frozenset[str], resources: frozenset[str], now: float) -> bool:
    """Tell whether all of this was allowed before, and is remembered."""
    return (
        consent is not None
        and now < consent.expires_at
        and scopes <= consent.scopes
        and resources <= consent.resources
    )


def extend(
    consent: Consent | None,
    *,
    subject: str,
    app_id: str,
    scopes: frozenset[str],
    resources: frozenset[str],
    now: float,
) -> Consent:
    """Remember one more consent beside what is remembered already, where both together say no more.

    A row says that each scope is allowed at each resource. Reading at one and writing at another would become
    writing at both; then the new one alone is remembered, at the price of a question for the old one.
    """
    if consent is None:
        return Consent(
            consent_id=consent_id(subject, app_id),
            subject=subject,
            app_id=app_id,
            scopes=scopes,
            resources=resources,
            created_at=now,
            expires_at=now + CONSENT_LIFETIME,
        )
    kept = now < consent.expires_at
    is_united = kept and _is_union_allowed(consent, scopes, resources)
    return replace(
        consent,
        scopes=scopes | consent.scopes if is_united else scopes,
        resources=resources | consent.resources if is_united else resources,
        created_at=consent.created_at if kept else now,
        expires_at=now + CONSENT_LIFETIME,
        version=consent.version + 1,
    )


def _is_union_allowed(consent: Consent, scopes: frozenset[str], resources: frozenset[str]) -> bool:
    return (
        scopes == consent.scopes
        or resources == consent.resources
        or (scopes <= consent.scopes and resources <= consent.resources)
        or (scopes >= consent.scopes and resources >= consent.resources)
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode("ascii")).hexdigest()
