"""The token endpoint (RFC 6749 §3.2): each grant type's form parsed into what its flow takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.responses import JSONResponse, Response

from rpz_auth_server.domain.refusal import GrantTypeUnknown, RequestInvalid
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.client_credentials import GrantClientCredentials, grant_client_credentials
from rpz_auth_server.flows.exchange_token import ExchangeToken, exchange_token
from rpz_auth_server.flows.pipeline import ClientCredentials, TokenSet
from rpz_auth_server.flows.refresh import Refresh, refresh
from rpz_auth_server.flows.token_exchange import ACCESS_TOKEN_TYPE, TokenExchange, token_exchange
from rpz_auth_server.transport.oauth.form import Answer, Form

JSON: TypeAlias = dict[str, str | int]


async def _authorization_code(authority: Authority, client: ClientCredentials, form: Form) -> JSON:
    request = ExchangeToken(
        client=client,
        code=form.require("code"),
        redirect_uri=form.get("redirect_uri"),
        code_verifier=form.get("code_verifier"),
        resource=form.resource,
    )
    return _write_tokens(await exchange_token(authority, request))


async def _refresh_token(authority: Authority, client: ClientCredentials, form: Form) -> JSON:
    request = Refresh(
        client=client,
        refresh_token=form.require("refresh_token"),
        scopes=form.scopes,
        resource=form.resource,
    )
    return _write_tokens(await refresh(authority, request))


async def _client_credentials(authority: Authority, client: ClientCredentials, form: Form) -> JSON:
    request = GrantClientCredentials(client=client, scopes=form.scopes, resource=form.resource)
    return _write_tokens(await grant_client_credentials(authority, request))


async def _token_exchange(authority: Authority, client: ClientCredentials, form: Form) -> JSON:
    if form.get("requested_token_type") not in ("", ACCESS_TOKEN_TYPE):
        raise RequestInvalid("only access tokens are issued")
    if form.get("actor_token"):
        raise RequestInvalid("this authority offers no delegation; leave out actor_token")
    exchanged = await token_exchange(
        authority,
        TokenExchange(
            client=client,
            subject_token=form.require("subject_token"),
            subject_token_type=form.require("subject_token_type"),
            scopes=form.scopes,
            resource=form.resource,
        ),
    )
    answer = _write(exchanged.access_token, exchanged.expires_in, exchanged.scopes)
    return {**answer, "issued_token_type": ACCESS_TOKEN_TYPE}


GRANT_TYPES: Mapping[str, Callable[[Authority, ClientCredentials, Form], Awaitable[JSON]]] = {
    "authorization_code": _authorization_code,
    "refresh_token": _refresh_token,
    "client_credentials": _client_credentials,
    "urn:ietf:params:oauth:grant-type:token-exchange": _token_exchange,
}


def answer(authority: Authority) -> Answer:
    """Serve all grant types."""

    async def token(form: Form, client: ClientCredentials) -> Response:
        grant = GRANT_TYPES.get(form.require("grant_type"))
        if grant is None:
            raise GrantTypeUnknown
        return JSONResponse(await grant(authority, client, form))

    return token


def _write_tokens(tokens: TokenSet) -> JSON:
    answer = _write(tokens.access_token, tokens.expires_in, tokens.scopes)
    return {**answer, "refresh_token": tokens.refresh_token} if tokens.refresh_token else answer


def _write(access_token: str, expires_in: int, scopes: frozenset[str]) -> JSON:
    """RFC 6749 §5.1; the scope stands there always (§3.3), so that no client has to remember its own."""
    return {
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": expires_in,
        "scope": " ".join(sorted(scopes)),
    }
