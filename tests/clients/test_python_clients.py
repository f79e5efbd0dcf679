"""Authlib and requests-oauthlib, as published, against the authority unchanged."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.requests_client import OAuth2Session as AuthlibSession
from oauthlib.oauth2 import BackendApplicationClient
from oauthlib.oauth2.rfc6749.errors import InvalidGrantError
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session
from server.authority import CODE_VERIFIER, ORDERS, REDIRECT_URI, Client

if TYPE_CHECKING:
    from clients.conftest import Provider

METADATA = "/.well-known/oauth-authorization-server"
SCOPE = "orders.read"


def discover(provider: Provider) -> dict[str, Any]:
    """What a client knows of the authority: what it says of itself."""
    answer = requests.get(provider.issuer + METADATA, verify=provider.ca, timeout=20)
    found: dict[str, Any] = answer.json()
    assert found["issuer"] == provider.issuer
    return found


async def confidential(provider: Provider) -> Client:
    return await provider.authority.create_client()


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_authlib_of_a_backend_goes_all_the_way(provider: Provider, method: str) -> None:
    client = await confidential(provider)
    metadata = await asyncio.to_thread(discover, provider)
    session: Any = AuthlibSession(
        client.app_id,
        client.secret,
        scope=SCOPE,
        redirect_uri=REDIRECT_URI,
        code_challenge_method="S256",
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
    )
    session.trust_env, session.verify = False, provider.ca
    session.headers["connection"] = "close"  # else the authority waits for it at the end
    url, state = session.create_authorization_url(
        metadata["authorization_endpoint"], code_verifier=CODE_VERIFIER
    )
    back = await provider.browse(url)

    def rest() -> list[Any]:
        first = session.fetch_token(
            metadata["token_endpoint"], authorization_response=back, code_verifier=CODE_VERIFIER, state=state
        )
        second = dict(session.refresh_token(metadata["token_endpoint"], first["refresh_token"]))
        meaning = session.introspect_token(metadata["introspection_endpoint"], second["access_token"]).json()
        revoked = session.revoke_token(metadata["revocation_endpoint"], second["refresh_token"])
        with pytest.raises(OAuthError) as refused:
            session.refresh_token(metadata["token_endpoint"], second["refresh_token"])
        return [first["scope"], first["token_type"], meaning["sub"], revoked.status_code, refused.value.error]

    assert await asyncio.to_thread(rest) == [SCOPE, "Bearer", provider.subject, 200, "invalid_grant"]


async def test_authlib_on_httpx_goes_all_the_way_without_a_secret(provider: Provider) -> None:
    client = await provider.authority.create_public_client()
    metadata = await asyncio.to_thread(discover, provider)
    async with AsyncOAuth2Client(
        client.app_id,
        scope=SCOPE,
        redirect_uri=REDIRECT_URI,
        code_challenge_method="S256",
        token_endpoint_auth_method="none",
        verify=ssl.create_default_context(cafile=provider.ca),
        trust_env=False,
    ) as session:
        url, _ = session.create_authorization_url(
            metadata["authorization_endpoint"], code_verifier=CODE_VERIFIER
        )
        back = await provider.browse(url)
        token = await session.fetch_token(
            metadata["token_endpoint"], authorization_response=back, code_verifier=CODE_VERIFIER
        )
        assert token["expires_in"] == 7200
        renewed = await session.refresh_token(metadata["token_endpoint"], token["refresh_token"])
        assert renewed["refresh_token"] != token["refresh_token"]
        assert await provider.authority.is_alive(renewed["access_token"])


async def test_authlib_gets_tokens_for_an_app_itself(provider: Provider) -> None:
    client = await confidential(provider)
    metadata = await asyncio.to_thread(discover, provider)
    session: Any = AuthlibSession(client.app_id, client.secret, scope=SCOPE)
    session.trust_env, session.verify = False, provider.ca
    session.headers["connection"] = "close"  # else the authority waits for it at the end
    token = await asyncio.to_thread(
        session.fetch_token, metadata["token_endpoint"], grant_type="client_credentials", resource=ORDERS
    )
    assert (token["scope"], "refresh_token" in token) == (SCOPE, False)


async def test_r017_requests_oauthlib_goes_all_the_way(provider: Provider) -> None:
    client = await confidential(provider)
    metadata = await asyncio.to_thread(discover, provider)
    session = OAuth2Session(client.app_id, redirect_uri=REDIRECT_URI, scope=[SCOPE], pkce="S256")
    url, _ = session.authorization_url(metadata["authorization_endpoint"])
    back = await provider.browse(url)
    basic = HTTPBasicAuth(client.app_id, client.secret)
    endpoint = metadata["token_endpoint"]

    def rest() -> list[Any]:
        # It raises when the scope is another than it asked for.
        first = session.fetch_token(
            endpoint, authorization_response=back, client_secret=client.secret, verify=provider.ca
        )
        second = session.refresh_token(endpoint, first["refresh_token"], auth=basic, verify=provider.ca)
        form = {"token": second["access_token"]}
        revoked = requests.post(
            metadata["revocation_endpoint"], form, auth=basic, verify=provider.ca, timeout=20
        )
        meaning = requests.post(
            metadata["introspection_endpoint"], form, auth=basic, verify=provider.ca, timeout=20
        )
        return [first["scope"], revoked.status_code, meaning.json()]

    assert await asyncio.to_thread(rest) == [[SCOPE], 200, {"active": False}]


async def test_requests_oauthlib_gets_tokens_for_an_app_itself_and_is_told_why_not(
    provider: Provider,
) -> None:
    client = await confidential(provider)
    endpoint = (await asyncio.to_thread(discover, provider))["token_endpoint"]
    session = OAuth2Session(client=BackendApplicationClient(client.app_id, scope=[SCOPE]))
    token = await asyncio.to_thread(
        session.fetch_token, endpoint, client_secret=client.secret, verify=provider.ca, include_client_id=True
    )
    assert await provider.authority.is_alive(token["access_token"])
    other = OAuth2Session(client.app_id, redirect_uri=REDIRECT_URI, scope=[SCOPE])
    with pytest.raises(InvalidGrantError):
        await asyncio.to_thread(
            other.fetch_token, endpoint, code="rpzc_x", client_secret=client.secret, verify=provider.ca
        )
