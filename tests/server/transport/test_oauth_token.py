"""The token endpoint over HTTPS."""

from __future__ import annotations

import asyncio

import rpz_auth
from rpz.auth.v1 import app_service_pb2
from rpz_auth.errors import BackendUnavailable
from server.authority import (
    CODE_VERIFIER,
    ORDERS,
    REDIRECT_URI,
    STOCK,
    Client,
    TestAuthority,
)
from server.oauth import (
    TOKEN,
    basic,
    claims_of,
    error_of,
    for_itself,
    post,
    redeem,
    refresh,
)


async def test_r007_r008_r017_answer_has_what_rfc_6749_demands(authority: TestAuthority) -> None:
    client = await authority.create_client()
    answer = await redeem(authority, client, await authority.issue_code(client))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body == {
        "access_token": body["access_token"],
        "token_type": "Bearer",
        "expires_in": 7200,
        "refresh_token": body["refresh_token"],
        "scope": "orders.read",
    }
    assert await authority.is_alive(body["access_token"])


async def test_r020_a01_second_valid_redemption_ends_the_grant(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    tokens = (await redeem(authority, client, code)).json()
    assert error_of(await redeem(authority, client, code)) == (400, "invalid_grant")
    assert not await authority.is_alive(tokens["access_token"])
    assert error_of(await refresh(authority, client, tokens["refresh_token"])) == (400, "invalid_grant")


async def test_r021_r023_r027_r029_a02_a06_wrong_request_neither_redeems_nor_revokes(
    authority: TestAuthority,
) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    code = await authority.issue_code(client)
    wrong: list[tuple[Client, dict[str, str]]] = [
        (other, {}),
        (client, {"code_verifier": ""}),
        (client, {"code_verifier": CODE_VERIFIER[:-1]}),
        (client, {"code_verifier": "x" * 42}),
        (client, {"code_verifier": "x" * 129}),
        (client, {"code_verifier": "ß" * 43}),
        (client, {"code_verifier": CODE_VERIFIER + "="}),
        (client, {"redirect_uri": REDIRECT_URI + "/"}),
        (client, {"redirect_uri": ""}),
    ]
    for sender, form in wrong:
        assert error_of(await redeem(authority, sender, code, **form)) == (400, "invalid_grant")
    tokens = (await redeem(authority, client, code)).json()
    for sender, form in wrong:
        assert error_of(await redeem(authority, sender, code, **form)) == (400, "invalid_grant")
    assert await authority.is_alive(tokens["access_token"])


async def test_r022_code_that_is_a_minute_old_is_refused(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    await authority.advance(60)
    assert error_of(await redeem(authority, client, code)) == (400, "invalid_grant")


async def test_r028_a04_verifier_without_a_challenge_is_a_downgrade(authority: TestAuthority) -> None:
    client = await authority.create_client(pkce_exempt=True)
    code = await authority.issue_code(client, code_challenge="", code_challenge_method="")
    assert error_of(await redeem(authority, client, code)) == (400, "invalid_request")


async def test_r030_a07_of_simultaneous_redemptions_one_succeeds(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    answers = await asyncio.gather(*[redeem(authority, client, code) for _ in range(16)])
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 15


async def test_r061_refresh_gives_a_part_of_the_scopes_and_keeps_all(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client, scopes=["orders.read", "orders.write"])
    part = (await refresh(authority, client, tokens.refresh_token, scope="orders.write")).json()
    assert part["scope"] == "orders.write"
    assert error_of(await refresh(authority, client, part["refresh_token"], scope="orders.admin")) == (
        400,
        "invalid_scope",
    )
    whole = (await refresh(authority, client, part["refresh_token"])).json()
    assert whole["scope"] == "orders.read orders.write"


async def test_one_access_token_is_for_one_resource(authority: TestAuthority) -> None:
    client = await authority.create_client(resources=[ORDERS, STOCK])
    assert error_of(await for_itself(authority, client)) == (400, "invalid_target")
    assert error_of(await for_itself(authority, client, resource="https://x.example")) == (
        400,
        "invalid_target",
    )
    answer = await post(authority, TOKEN, client, grant_type="client_credentials", resource=[ORDERS, STOCK])
    assert error_of(answer) == (400, "invalid_target")
    answer = await for_itself(authority, client, resource=STOCK)
    assert claims_of(answer.json()["access_token"])["aud"] == STOCK


async def test_r019_r083_a47_app_gets_a_token_for_itself_without_a_refresh_token(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    body = (await for_itself(authority, client, scope="orders.read")).json()
    assert body == {
        "access_token": body["access_token"],
        "token_type": "Bearer",
        "expires_in": 7200,
        "scope": "orders.read",
    }
    claims = claims_of(body["access_token"])
    (secret,) = await authority.store.client_secrets(client.app_id)
    assert claims == {
        "iss": authority.settings.issuer,
        "sub": f"app:{client.app_id}",
        "aud": ORDERS,
        "client_id": client.app_id,
        "iat": claims["iat"],
        "exp": claims["iat"] + 7200,
        "jti": claims["jti"],
        "scope": "orders.read",
        "epoch": 0,
        "secret_id": secret.secret_id,
    }
    assert await authority.is_alive(body["access_token"])


async def test_r019_who_has_no_secret_gets_no_token_for_itself(authority: TestAuthority) -> None:
    for public in (await authority.create_public_client(), Client((await a_device(authority)).app_id)):
        assert error_of(await for_itself(authority, public)) == (400, "unauthorized_client")
    device = await a_device(authority)
    device = Client(device.app_id, await authority.create_secret(device.app_id))
    assert (await for_itself(authority, device)).status_code == 200
    assert error_of(await for_itself(authority, Client(device.app_id))) == (401, "invalid_client")


async def a_device(authority: TestAuthority) -> Client:
    kind = app_service_pb2.APP_KIND_DEVICE
    return Client((await authority.create_app(kind=kind)).app_id)


async def test_token_of_an_app_for_itself_ends_with_the_secret_that_got_it(authority: TestAuthority) -> None:
    client = await authority.create_client()
    other = Client(client.app_id, await authority.create_secret(client.app_id))
    mine = (await for_itself(authority, client)).json()["access_token"]
    others = (await for_itself(authority, other)).json()["access_token"]
    secret_id = claims_of(mine)["secret_id"]
    request = app_service_pb2.RevokeClientSecretRequest(app_id=client.app_id, secret_id=secret_id)
    await authority.admin.apps.RevokeClientSecret(request)
    assert not await authority.is_alive(mine)
    assert await authority.is_alive(others)
    assert error_of(await for_itself(authority, client)) == (401, "invalid_client")


async def test_token_of_an_app_for_itself_ends_when_it_is_locked(authority: TestAuthority) -> None:
    client = await authority.create_client()
    token = (await for_itself(authority, client)).json()["access_token"]
    await authority.admin.apps.LockApp(app_service_pb2.LockAppRequest(app_id=client.app_id))
    assert not await authority.is_alive(token)
    assert error_of(await for_itself(authority, client)) == (401, "invalid_client")


async def test_scopes_of_the_authority_itself_are_granted_by_name_only(authority: TestAuthority) -> None:
    issuer = authority.settings.issuer
    client = await authority.create_client(scopes=["orders.read", "rpz.apps"], resources=[issuer, ORDERS])
    assert (await for_itself(authority, client, resource=issuer)).json()["scope"] == "orders.read"
    named = (await for_itself(authority, client, resource=issuer, scope="rpz.apps")).json()
    assert named["scope"] == "rpz.apps"
    stubs = authority.stubs(rpz_auth.AccessToken(named["access_token"]))
    assert (await stubs.apps.ListApps(app_service_pb2.ListAppsRequest())).apps == []
    only_own = await authority.create_client(scopes=["rpz.apps"], resources=[issuer])
    assert error_of(await for_itself(authority, only_own)) == (400, "invalid_scope")
    assert error_of(await for_itself(authority, client, resource=ORDERS, scope="rpz.admin")) == (
        400,
        "invalid_scope",
    )


async def test_token_for_itself_writes_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    authority.store.calls.clear()
    assert (await for_itself(authority, client)).status_code == 200
    assert "commit" not in authority.store.calls


async def test_r208_api_token_is_exchanged_for_an_access_token(authority: TestAuthority) -> None:
    app = await authority.create_app()
    created = await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS])
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": created.api_token,
        "subject_token_type": "urn:rpz:token-type:api_token",
    }
    body = (await post(authority, TOKEN, Client(app.app_id), **form)).json()
    assert body == {
        "access_token": body["access_token"],
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": 7200,
        "scope": "orders.read",
    }
    assert await authority.is_alive(body["access_token"])
    for changes, error in (
        ({"subject_token": ""}, "invalid_request"),
        ({"subject_token_type": ""}, "invalid_request"),
        ({"subject_token": "rpzt_x"}, "invalid_grant"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
    ):
        answer = await post(authority, TOKEN, Client(app.app_id), **{**form, **changes})
        assert error_of(answer) == (400, error)


async def test_whitelist_holds_at_the_token_endpoint_for_peers_and_for_pages(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    await authority.update_app(client.app_id, whitelist=["203.0.113.9"])
    answer = await for_itself(authority, client)
    assert error_of(answer) == (403, "access_denied")
    assert "203.0.113.9" not in answer.text
    await authority.update_app(client.app_id, whitelist=["origin:https://shop.example"])
    form = {"grant_type": "client_credentials", **client.body}
    for origin, status in (("https://shop.example", 200), ("https://evil.example", 403), ("null", 403)):
        answer = await authority.http.post(TOKEN, data=form, headers={"origin": origin})
        assert answer.status_code == status
    assert (await authority.http.post(TOKEN, data=form)).status_code == 403


async def test_r128_database_that_does_not_answer_is_503(authority: TestAuthority) -> None:
    client = await authority.create_client()
    authority.store.faults["app"] = BackendUnavailable("the database cannot be read at the moment; try again")
    answer = await for_itself(authority, client)
    assert error_of(answer) == (503, "temporarily_unavailable")


async def test_fault_of_ours_tells_nothing(authority: TestAuthority) -> None:
    client = await authority.create_client()
    authority.store.faults["app"] = RuntimeError("only for the log")
    answer = await for_itself(authority, client)
    assert answer.status_code == 500
    assert answer.json() == {"error": "server_error", "error_description": "internal error"}
    assert "only for the log" in authority.logged.getvalue()


async def test_r126_no_secret_of_a_request_stands_in_the_log(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    tokens = (await redeem(authority, client, code)).json()
    await refresh(authority, client, tokens["refresh_token"])
    await authority.http.post(f"{TOKEN}?client_secret={client.secret}", headers=basic(client.app_id, "x"))
    logged = authority.logged.getvalue()
    assert logged.count('"/oauth/token"') >= 3
    for secret in (
        client.secret,
        code,
        CODE_VERIFIER,
        *(str(value) for value in tokens.values() if value != 7200),
    ):
        assert secret in ("Bearer", "orders.read") or secret not in logged
