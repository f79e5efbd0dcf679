"""What OAuth 2 secrets and API tokens have in common when they are made and changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rpz_auth_server.domain.credential import ApiToken, C, ClientSecret, expires_soon, id_of, is_live
from rpz_auth_server.domain.name import check_name
from rpz_auth_server.domain.refusal import RequestInvalid

MAX_OVERLAP = 3650 * 86400
"""Seconds; a deadline beyond the year 9999 could be stored, and never be shown as a Timestamp."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A deadline that is told from the creation on: whoever asks for one again asks for no later end."""

    seconds: float


Ends = float | Lifetime | None
"""When a credential that is asked for ends; None for never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """What is asked for when a credential is replaced."""

    overlap: float
    """In seconds; for how long the old one goes on."""
    display_name: str = ""
    expires_at: Ends = None
    request_id: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            RequestInvalid: The overlap is less than nothing, or longer than `MAX_OVERLAP`.
        """
        if not 0 <= self.overlap <= MAX_OVERLAP:
            raise RequestInvalid(f"overlap is 0 to {MAX_OVERLAP} seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFields:
    """What a caller may change of a credential; None for a name that stays."""

    display_name: str | None = None
    sets_deadline: bool = False
    expires_at: float | None = None
    """With `sets_deadline`: the new one, None for none."""


def change(credential: C, fields: CredentialFields, now: float) -> C:
    """A credential as it will be.

    Raises:
        RequestInvalid: It has ended, or a field is not of its form.
    """
    if not is_live(credential, now):
        raise RequestInvalid("this credential has ended, and never comes back; create another")
    if fields.sets_deadline:
        check_deadline(fields.expires_at, now)
    name = fields.display_name
    return replace(
        credential,
        display_name=credential.display_name
        if name is None
        else check_name(name, "display_name", may_be_empty=True),
        expires_at=fields.expires_at if fields.sets_deadline else credential.expires_at,
        version=credential.version + 1,
    )


def as_asked(ends: Ends) -> object:
    """What is compared when a creation is repeated, as JSON can hold it."""
    return {"lifetime": ends.seconds} if isinstance(ends, Lifetime) else ends


def deadline_of(ends: Ends, now: float) -> float | None:
    """The deadline of a credential that is made now.

    Raises:
        RequestInvalid: It has passed.
    """
    at = now + ends.seconds if isinstance(ends, Lifetime) else ends
    check_deadline(at, now)
    return at


def check_deadline(expires_at: float | None, now: float) -> None:
    """Take a deadline in the future, or none.

    Raises:
        RequestInvalid: It has passed.
    """
    if expires_at is not None and expires_at <= now:
        raise RequestInvalid("expire_time has passed already")


def expiry_warnings(
    credentials: Sequence[ClientSecret | ApiToken], now: float, window: float
) -> tuple[str, ...]:
    """What whoever administers them should know, a sentence each."""
    return tuple(
        f"{credential.display_name or 'A credential without a name'} ({id_of(credential)}) expires in "
        f"{_span((credential.expires_at or now) - now)}; rotate it, and give the successor to whoever uses it"
        for credential in credentials
        if expires_soon(credential, now, window)
    )


def _span(seconds: float) -> str:
    days, hours = int(seconds // 86400), int(seconds // 3600)
    return f"{days} days" if days > 1 else f"{hours} hours" if hours > 1 else "less than two hours"
