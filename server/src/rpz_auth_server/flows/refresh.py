"""Renewing an access token (RFC 6749 §6)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.grant import Grant, Issued, Lifetimes, Reused
from rpz_auth_server.domain.grant import refresh as renew
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import (
    ClientCredentials,
    Selection,
    TokenSet,
    choose_resource,
    choose_scopes,
    issue,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """One request, as parsed."""

    client: ClientCredentials
    refresh_token: str = field(repr=False)
    scopes: frozenset[str] = frozenset()
    resource: str = ""

    kind = HandleKind.REFRESH

    def select(self, grant: Grant, app: App) -> Selection:
        """A part of what was granted and is still the App's, never more (RFC 6749 §6)."""
        return Selection(
            choose_scopes(self.scopes, grant.scopes, app.scopes),
            choose_resource(self.resource, grant.resources, app.resources),
        )

    def decide(
        self, grant: Grant, generation: int, now: float, authority: Authority, lifetimes: Lifetimes
    ) -> Issued | Reused:
        """Advance the grant, repeat a lost answer, or detect reuse."""
        return renew(
            grant,
            app_id=self.client.client_id,
            generation=generation,
            peer=str(self.client.peer),
            key_number=authority.keyring.minting_number,
            now=now,
            lifetimes=lifetimes,
            recovers=authority.restored_at is None or grant.created_at >= authority.restored_at,
        )


async def refresh(authority: Authority, request: Refresh) -> TokenSet:
    """Renew. May be repeated with the same token while the answer's is unused and the grace lasts.

    Raises:
        GrantInvalid: Unknown, expired or revoked; another App's; used before, which revokes the grant.
        ClientInvalid: The App did not authenticate.
        ScopeInvalid: More than was granted and is still the App's.
        TargetInvalid: The resource was not granted, or must be named.
    """
    return await issue(authority, request.client, request.refresh_token, request)
