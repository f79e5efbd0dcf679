"""The long-lived credentials of Apps, OAuth 2 secrets and API tokens, and the rules of their lives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSecret:
    """An OAuth 2 secret of an App; the row cannot make the credential."""

    secret_id: str
    app_id: str
    display_name: str
    salt: bytes
    key_number: int
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    last_used_from: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """An API token of an App; the row cannot make the credential."""

    api_token_id: str
    app_id: str
    display_name: str
    scopes: frozenset[str]
    resources: frozenset[str]
    salt: bytes
    key_number: int
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None
    last_used_from: str = ""
    version: int = 1


C = TypeVar("C", ClientSecret, ApiToken)


def expires_soon(credential: ClientSecret | ApiToken, now: float, window: float) -> bool:
    """Tell whether somebody should replace a credential: it ends within `window` seconds.

    One that was made for no longer than that ends as it was meant to.
    """
    deadline = credential.expires_at
    return (
        deadline is not None
        and is_live(credential, now)
        and deadline - now <= window < deadline - credential.created_at
    )


def id_of(credential: ClientSecret | ApiToken) -> str:
    """The ID of a credential of either kind."""
    return credential.secret_id if isinstance(credential, ClientSecret) else credential.api_token_id


def deadline(credential: ClientSecret | ApiToken) -> float:
    """When a credential ends by itself; infinite for never."""
    return math.inf if credential.expires_at is None else credential.expires_at


def retire(credential: C, at: float) -> C:
    """Put a deadline on a credential, unless it has an earlier one."""
    return replace(credential, expires_at=min(deadline(credential), at), version=credential.version + 1)


def is_live(credential: ClientSecret | ApiToken, now: float) -> bool:
    """Tell whether a long-lived credential is neither revoked nor past its deadline."""
    return credential.revoked_at is None and (credential.expires_at is None or now < credential.expires_at)
