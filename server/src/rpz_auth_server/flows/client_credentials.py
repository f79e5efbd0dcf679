"""Access tokens of an App that speaks for itself (RFC 6749 §4.4)."""

from __future__ import annotations

from dataclasses import dataclass

from rpz_auth.caller import APP_SUBJECT_PREFIX

from rpz_auth_server.crypto.handles import HandleKind, new_id
from rpz_auth_server.crypto.signing import AccessTokenClaims
from rpz_auth_server.domain import scope
from rpz_auth_server.domain.refusal import GrantTypeNotAllowed
from rpz_auth_server.flows.pipeline import (
    Authority,
    ClientCredentials,
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
    with the secret. The authority's own scopes are granted only by name.

    Raises:
        ClientInvalid: The App did not authenticate.
        GrantTypeNotAllowed: It has no secret to do it with (RFC 6749 §4.4: confidential clients only).
        OriginNotAllowed: Its whitelist does not have the peer.
        ScopeInvalid: A scope that is not registered for it.
        TargetInvalid: A resource that is not registered for it, or must be named.
    """
    app = await authenticate_client(authority, request.client)
    if not request.client.client_secret:
        raise GrantTypeNotAllowed
    available = app.scopes if request.scopes else scope.unreserved(app.scopes)
    scopes = choose_scopes(request.scopes, available, app.scopes)
    resource = choose_resource(request.resource, app.resources, app.resources)
    now = int(authority.store.now())
    claims = AccessTokenClaims(
        iss=authority.issuer,
        sub=APP_SUBJECT_PREFIX + app.app_id,
        aud=resource,
        client_id=app.app_id,
        iat=now,
        exp=now + int(authority.lifetimes.access_token),
        jti=new_id(),
        scope=" ".join(sorted(scopes)),
        epoch=app.epoch,
        secret_id=authority.handles.open(HandleKind.SECRET, request.client.client_secret).id,
    )
    return TokenSet(
        access_token=authority.signing.sign(claims),
        expires_in=claims.exp - claims.iat,
        refresh_token="",
        scopes=scopes,
    )
