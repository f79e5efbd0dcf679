"""Redeeming an authorization code (RFC 6749 §4.1.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.grant import Grant, Issued, Lifetimes, Reused, redeem
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
class ExchangeToken:
    """One request, as parsed."""

    client: ClientCredentials
    code: str = field(repr=False)
    redirect_uri: str
    code_verifier: str = field(repr=False)
    resource: str = ""

    kind = HandleKind.CODE

    def select(self, grant: Grant, app: App) -> Selection:
        """All that was granted and is still the App's."""
        return Selection(
            choose_scopes(frozenset(), grant.scopes, app.scopes),
            choose_resource(self.resource, grant.resources, app.resources),
        )

    def decide(
        self, grant: Grant, generation: int, now: float, authority: Authority, lifetimes: Lifetimes
    ) -> Issued | Reused:
        """Redeem; a code is of no generation."""
        del generation
        return redeem(
            grant,
            app_id=self.client.client_id,
            redirect_uri=self.redirect_uri,
            code_verifier=self.code_verifier,
            peer=str(self.client.peer),
            key_number=authority.keyring.minting_number,
            now=now,
            lifetimes=lifetimes,
        )


async def exchange_token(authority: Authority, request: ExchangeToken) -> TokenSet:
    """Redeem a code. Must never be repeated automatically: a second valid try revokes the grant.

    Raises:
        GrantInvalid: Unknown, expired or used code; another App's; another redirect URI or verifier.
        ClientInvalid: The App did not authenticate.
        ScopeInvalid: None of the granted scopes is the App's any more.
        TargetInvalid: The resource was not granted, or must be named.
    """
    return await issue(authority, request.client, request.code, request)
