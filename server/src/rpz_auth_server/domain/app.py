"""Apps and their long-lived credentials: OAuth 2 secrets and API tokens."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from rpz_auth.view import AppState


class AppKind(enum.StrEnum):
    """Where an App runs, and so whether it can keep a secret."""

    BACKEND = "backend"
    DEVICE = "device"
    FRONTEND = "frontend"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """For which Apps and subjects a sign-in service may issue codes; set by an administrator."""

    client_ids: frozenset[str]
    subject_prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An App or Device. Times are seconds since the epoch, on the database's clock."""

    app_id: str
    """A random UUID, the OAuth 2 `client_id`."""
    kind: AppKind
    display_name: str
    owner: str
    redirect_uris: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    whitelist: tuple[str, ...] = ()
    locked: bool = False
    deleted: bool = False
    """A deleted App's row stays, emptied, until no credential of it can be alive."""
    epoch: int = 0
    pkce_exempt: bool = False
    sign_in: SignIn | None = None
    created_at: float
    updated_at: float
    version: int = 1

    @property
    def state(self) -> AppState:
        """What verifiers must know."""
        return AppState(
            app_id=self.app_id,
            version=self.version,
            locked=self.locked,
            deleted=self.deleted,
            epoch=self.epoch,
            whitelist=self.whitelist,
        )


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
    version: int = 1


def is_live(credential: ClientSecret | ApiToken, now: float) -> bool:
    """Tell whether a long-lived credential is neither revoked nor past its deadline."""
    return credential.revoked_at is None and (credential.expires_at is None or now < credential.expires_at)
