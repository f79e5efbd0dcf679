"""Apps and Devices: the OAuth 2 clients."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from rpz_auth.view import AppState

from rpz_auth_server.domain.grant import MARGIN, Lifetimes


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
    resolved: tuple[str, ...] = ()
    """Addresses of the names in its whitelist; what verifiers are told beside the entries."""
    private_names_allowed: bool = False
    """Whether these may be private ones."""
    locked: bool = False
    locked_by: str = ""
    """Whoever locked it; what an administrator has locked, no owner unlocks."""
    locked_by_administrator: bool = False
    deleted: bool = False
    """A deleted App's row stays, emptied, until no credential of it can be alive."""
    epoch: int = 0
    confidential: bool = False
    """Whether it must authenticate. Once it has had a secret it must, also when the last one has ended, until
    its owner says otherwise."""
    pkce_exempt: bool = False
    query_token_allowed: bool = False
    """Whether its API tokens may travel in URLs."""
    require_pushed_authorization_requests: bool = False
    """Whether browsers may bring its authorization requests only by reference (RFC 9126 §6)."""
    sign_in: SignIn | None = None
    access_token_lifetime: float | None = None
    """In seconds, as those below; None for the authority's default."""
    refresh_idle_lifetime: float | None = None
    refresh_absolute_lifetime: float | None = None
    created_at: float
    updated_at: float
    version: int = 1

    @property
    def effective_whitelist(self) -> tuple[str, ...]:
        """The entries, and what their names lead to."""
        return (*self.whitelist, *self.resolved)

    @property
    def state(self) -> AppState:
        """What verifiers must know."""
        return AppState(
            app_id=self.app_id,
            version=self.version,
            locked=self.locked,
            deleted=self.deleted,
            epoch=self.epoch,
            whitelist=self.effective_whitelist,
            query_token_allowed=self.query_token_allowed,
            forget_at=forget_at(self.updated_at)
            if self.deleted
            else None,  # its row does not change any more
        )

    def lifetimes(self, default: Lifetimes) -> Lifetimes:
        """How long what is issued to it lives: its own lifetimes, else the authority's."""
        own = {
            "access_token": self.access_token_lifetime,
            "refresh_idle": self.refresh_idle_lifetime,
            "refresh_absolute": self.refresh_absolute_lifetime,
        }
        chosen = {name: value for name, value in own.items() if value is not None}
        return replace(default, **chosen) if chosen else default

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever administers it should know, a sentence each."""
        return tuple(text for name, text in _WARNINGS.items() if getattr(self, name))


_WARNINGS = {
    "pkce_exempt": "This App is exempt from PKCE: a code that leaks can be redeemed in another session "
    "of it (RFC 9700 §2.1.1). Let it send a code_challenge, and take the exemption back.",
    "query_token_allowed": "API tokens of this App may travel in URLs, which stand in logs, histories and "
    "Referer headers. Keep them short-lived, and let the App send the header instead.",
}


def forget_at(deleted_at: float) -> float:
    """When verifiers may forget an App: when no access token that was issued to it can be alive."""
    return deleted_at + MARGIN
