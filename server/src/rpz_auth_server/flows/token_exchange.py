"""Exchanging an API token for a short-lived access token (RFC 8693)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rpz_auth_server.crypto.handles import HandleKind
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.credential import ApiToken
from rpz_auth_server.domain.refusal import ClientInvalid, GrantInvalid, RequestInvalid
from rpz_auth_server.flows.app_token import sign_app_token
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.pipeline import (
    ClientCredentials,
    Selection,
    authenticate,
    choose_resource,
    choose_scopes,
    limited,
    try_open,
)
from rpz_auth_server.flows.verify_api_token import verify_api_token

API_TOKEN_TYPE = "urn:rpz:token-type:api_token"  # noqa: S105 - the name of a kind
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a kind
_NOT_VALID = "the subject_token is not a valid API token of this client_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExchange:
    """One request, as parsed."""

    client: ClientCredentials
    subject_token: str = field(repr=False)
    subject_token_type: str
    scopes: frozenset[str] = frozenset()
    resource: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangedToken:
    """A successful answer (RFC 8693 §2.2.1); there is no refresh token, the API token stays what renews."""

    access_token: str = field(repr=False)
    expires_in: int
    """In seconds."""
    scopes: frozenset[str]


async def token_exchange(authority: Authority, request: TokenExchange) -> ExchangedToken:
    """Exchange an API token of the App. Writes nothing, so it may be repeated at will.

    Nothing is widened: scopes and resource are among those of the API token that are still the App's, and
    the access token ends with it, by time or by revocation.

    Raises:
        GrantInvalid: The API token is good for nothing, or another App's; its App is locked or deleted.
        ClientInvalid: A secret was given besides, and it is not the App's.
        OriginNotAllowed: The App's whitelist does not have the peer.
        RequestInvalid: The token is said to be of another type.
        ScopeInvalid: More than the API token has.
        TargetInvalid: A resource that the API token does not have, or none among several.
        RateLimited: The peer failed too often.
    """
    app, token = await _authenticate(authority, request.client, request.subject_token)
    if request.subject_token_type != API_TOKEN_TYPE:
        raise RequestInvalid(f"subject_token_type must be {API_TOKEN_TYPE}")
    selection = Selection(
        choose_scopes(request.scopes, token.scopes, app.scopes),
        choose_resource(request.resource, token.resources, app.resources),
    )
    signed = sign_app_token(
        authority, app, selection, secret_id=token.api_token_id, not_after=token.expires_at
    )
    return ExchangedToken(
        access_token=signed.access_token, expires_in=signed.expires_in, scopes=selection.scopes
    )


async def _authenticate(
    authority: Authority, client: ClientCredentials, subject_token: str
) -> tuple[App, ApiToken]:
    """Find the App, whose API token speaks for it; a secret that is given besides is not passed over."""
    opened = try_open(authority, HandleKind.API_TOKEN, subject_token)
    secret = try_open(authority, HandleKind.SECRET, client.client_secret)
    with limited(authority, client, opened, *([secret] if client.client_secret else [])):
        token = await verify_api_token(authority, client.client_id, subject_token)
        if token is None:
            raise GrantInvalid(_NOT_VALID)
        try:
            # Reads the App again: a lock that came in between is seen here, or by its epoch.
            authenticated = await authenticate(authority, client, secret, vouched=True)
        except ClientInvalid:
            if client.client_secret:
                raise
            raise GrantInvalid(_NOT_VALID) from None
    authority.uses.note(token.api_token_id, at=authority.store.now(), place=str(client.peer))
    return authenticated.app, token
