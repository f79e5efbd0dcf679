"""Revocation and introspection over HTTPS."""

from __future__ import annotations

import rpz_auth
from server.authority import (
    ORDERS,
    STOCK,
    TestAuthority,
)
from server.oauth import (
    INTROSPECT,
    REVOKE,
    claims_of,
    error_of,
    for_itself,
    post,
    refresh,
)


async def test_r100_unknown_and_revoked_tokens_are_revoked_with_an_empty_answer(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    for token in ("nonsense", "rpzr_" + "A" * 64, tokens.refresh_token, tokens.refresh_token, "a.b.c"):
        answer = await post(authority, REVOKE, client, token=token)
        assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (200, b"", "no-store")
    assert error_of(await post(authority, REVOKE, client)) == (400, "invalid_request")


async def test_r101_both_tokens_are_revocable_with_any_hint(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first, second = await authority.sign_in(client), await authority.sign_in(client)
    await post(authority, REVOKE, client, token=first.refresh_token, token_type_hint="access_token")
    assert not await authority.is_alive(first.access_token)
    await post(authority, REVOKE, client, token=second.access_token, token_type_hint="unheard of")
    assert not await authority.is_alive(second.access_token)
    assert (await refresh(authority, client, second.refresh_token)).status_code == 200


async def test_r102_token_of_another_client_is_not_revoked(authority: TestAuthority) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    tokens = await authority.sign_in(client)
    for token in (tokens.refresh_token, tokens.access_token):
        assert (await post(authority, REVOKE, other, token=token)).status_code == 200
    assert await authority.is_alive(tokens.access_token)
    assert (await refresh(authority, client, tokens.refresh_token)).status_code == 200


async def test_public_client_revokes_its_own(authority: TestAuthority) -> None:
    client = await authority.create_public_client()
    tokens = await authority.sign_in(client)
    assert (await post(authority, REVOKE, client, token=tokens.refresh_token)).status_code == 200
    assert not await authority.is_alive(tokens.access_token)


async def test_service_introspects_what_is_meant_for_it(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    credential, _ = await authority.create_verifier(ORDERS)
    form = {"token": tokens.access_token, "token_type_hint": "refresh_token"}
    headers = {"authorization": credential.field_value()}
    claims = claims_of(tokens.access_token)
    answer = await authority.http.post(INTROSPECT, data=form, headers=headers)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "active": True,
        "scope": "orders.read",
        "client_id": client.app_id,
        "token_type": "Bearer",
        "iat": claims["iat"],
        "exp": claims["exp"],
        "sub": "user:1",
        "aud": ORDERS,
        "iss": authority.settings.issuer,
        "jti": claims["jti"],
    }
    api_token = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    answer = await authority.http.post(INTROSPECT, data={"token": api_token.api_token}, headers=headers)
    assert answer.json() == {
        "active": True,
        "scope": "orders.read",
        "client_id": client.app_id,
        "token_type": "Basic",
        "iat": int(answer.json()["iat"]),
        "sub": f"app:{client.app_id}",
        "aud": ORDERS,
        "iss": authority.settings.issuer,
        "jti": api_token.record.api_token_id,
    }


async def test_service_may_introspect_with_an_access_token_or_its_oauth_secret(
    authority: TestAuthority,
) -> None:
    tokens = await authority.sign_in(await authority.create_client())
    issuer = authority.settings.issuer
    service = await authority.create_client(scopes=["rpz.introspect"], resources=[issuer, ORDERS])
    form = {"scope": "rpz.introspect", "resource": issuer}
    own = (await for_itself(authority, service, **form)).json()["access_token"]
    # A token for the issuer names no other resource: what it may ask about is nobody's.
    headers = {"x-rpz-auth": f"Bearer {own}"}
    answer = await authority.http.post(INTROSPECT, data={"token": tokens.access_token}, headers=headers)
    assert answer.json() == {"active": False}
    answer = await post(authority, INTROSPECT, service, token=tokens.access_token)
    assert answer.json()["active"] is True


async def test_r104_r218_client_learns_of_its_own_tokens_only(authority: TestAuthority) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    tokens = await authority.sign_in(client)
    assert (await post(authority, INTROSPECT, client, token=tokens.access_token)).json()["active"] is True
    answer = await post(authority, INTROSPECT, other, token=tokens.access_token)
    assert answer.json() == {"active": False}


async def test_r104_what_is_not_active_is_told_by_nothing_else(authority: TestAuthority) -> None:
    client = await authority.create_client(resources=[ORDERS, STOCK])
    credential, _ = await authority.create_verifier(STOCK)
    headers = {"authorization": credential.field_value()}
    revoked = await authority.sign_in(client, resources=[STOCK])
    await post(authority, REVOKE, client, token=revoked.access_token)
    elsewhere = await authority.sign_in(client, resources=[ORDERS])
    old = await authority.sign_in(client, resources=[STOCK])
    await authority.advance(7200)
    for token in (
        "nonsense",
        "rpzt_" + "A" * 64,
        revoked.access_token,
        elsewhere.access_token,
        elsewhere.refresh_token,
        old.access_token,
    ):
        answer = await authority.http.post(INTROSPECT, data={"token": token}, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"active": False})


async def test_r103_introspection_demands_who_asks(authority: TestAuthority) -> None:
    form = {"token": "x"}
    assert error_of(await authority.http.post(INTROSPECT, data=form)) == (401, "invalid_client")
    public = await authority.create_public_client()
    assert error_of(await post(authority, INTROSPECT, public, token="x")) == (401, "invalid_client")
    answer = await authority.http.post(INTROSPECT, data=form, headers={"authorization": "Bearer a.b.c"})
    assert error_of(answer) == (401, "invalid_token")
    assert answer.headers["www-authenticate"].startswith('Bearer realm="rpz-auth", error="invalid_token", ')
    app_id, _ = await authority.app_with("rpz.apps")
    created = await authority.create_api_token(app_id, ["rpz.apps"], [authority.settings.issuer])
    headers = {"authorization": rpz_auth.ApiToken(app_id, created.api_token).field_value()}
    answer = await authority.http.post(INTROSPECT, data=form, headers=headers)
    assert error_of(answer) == (403, "insufficient_scope")
    assert answer.headers["www-authenticate"].endswith(', scope="rpz.introspect"')
