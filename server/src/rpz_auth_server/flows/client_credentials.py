"""Access tokens of an App that speaks for itself (RFC 6749 §4.4)."""

from __future__ import annotations

from dataclasses import dataclass

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.refusal import GrantTypeNotAllowed
from rpz_auth_server.flows.app_token import sign_app_token
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import (
    ClientCredentials,
    Selection,
    TokenSet,
    authenticate_client,
    choose_resource,
    choose_scopes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantClientCredentials:
    """One request, as parsed."""

    client: ClientCredentials
    scopes: frozenset[str] = frozenset()
    resource: str = ""


async def grant_client_credentials(authority: Authority, request: GrantClientCredentials) -> TokenSet:
    """Issue an access token for the App itself. Writes nothing, so it may be repeated at will.

    There is no refresh token (RFC 6749 §4.4.3), and no grant: the token carries the secret's id, and ends
    with the secret, by time or by revocation. The authority's own scopes are granted only by name.

    Raises:
        ClientInvalid: The App did not authenticate.
        GrantTypeNotAllowed: It has no secret to do it with (RFC 6749 §4.4: confidential clients only).
        OriginNotAllowed: Its whitelist does not have the peer.
        ScopeInvalid: A scope that is not registered for it.
        TargetInvalid: A resource that is not registered for it, or must be named.
    """
    client = await authenticate_client(authority, request.client)
    app, secret = client.app, client.secret
    if secret is None:
        raise GrantTypeNotAllowed
    available = app.scopes if request.scopes else scope.unreserved(app.scopes)
    scopes = choose_scopes(request.scopes, available, app.scopes)
    resource = choose_resource(request.resource, app.resources, app.resources)
    signed = sign_app_token(
        authority,
        app,
        Selection(scopes, resource),
        secret_id=secret.secret_id,
        not_after=secret.expires_at,
    )
    return TokenSet(
        access_token=signed.access_token,
        expires_in=signed.expires_in,
        refresh_token="",
        scopes=scopes,
    )
