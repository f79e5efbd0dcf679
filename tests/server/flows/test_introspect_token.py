from __future__ import annotations

from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import Reason
from server.authority import ORDERS, STOCK, Stubs, TestAuthority, basic, refusal

INACTIVE = pb.IntrospectTokenResponse(active=False)


async def introspect(stubs: Stubs, token: str, hint: str = "") -> pb.IntrospectTokenResponse:
    request = pb.IntrospectTokenRequest(token=token, token_type_hint=hint)
    answer: pb.IntrospectTokenResponse = await stubs.tokens.IntrospectToken(request)
    return answer


async def test_access_token_is_described(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client, scopes=["orders.write", "orders.read"])
    _, verifier = await authority.create_verifier()
    now = int(authority.store.now())
    answer = await introspect(verifier, tokens.access_token, "refresh_token")
    jti = answer.jti
    assert len(jti) == 22
    assert answer == pb.IntrospectTokenResponse(
        active=True,
        scopes=["orders.read", "orders.write"],
        client_id=client.app_id,
        token_type="Bearer",
        exp=now + 7200,
        iat=now,
        sub="user:1",
        aud=[ORDERS],
        iss=authority.settings.issuer,
        jti=jti,
    )


async def test_api_token_is_described_for_the_callers_resources_only(authority: TestAuthority) -> None:
    app = await authority.create_app(resources=[ORDERS, STOCK])
    created = await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS, STOCK])
    _, verifier = await authority.create_verifier(STOCK)
    assert await introspect(verifier, created.api_token) == pb.IntrospectTokenResponse(
        active=True,
        scopes=["orders.read"],
        client_id=app.app_id,
        token_type="Basic",
        iat=int(authority.store.now()),
        sub=f"app:{app.app_id}",
        aud=[STOCK],
        iss=authority.settings.issuer,
        jti=created.record.api_token_id,
    )
    _, other = await authority.create_verifier("https://other.example")
    assert await introspect(other, created.api_token) == INACTIVE


async def test_r104_r065_everything_else_is_exactly_inactive(authority: TestAuthority) -> None:
    client = await authority.create_client(resources=[ORDERS, STOCK])
    code = await authority.issue_code(client, resources=[ORDERS])
    expired = await authority.sign_in(client, resources=[ORDERS])
    await authority.advance(7200)
    elsewhere = await authority.sign_in(client, resources=[STOCK])
    revoked = await authority.sign_in(client, resources=[ORDERS])
    await authority.anonymous.tokens.RevokeToken(
        pb.RevokeTokenRequest(token=revoked.refresh_token, **client.body)
    )
    good = await authority.sign_in(client, resources=[ORDERS])
    dead = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    await authority.admin.tokens.RevokeApiToken(
        pb.RevokeApiTokenRequest(app_id=client.app_id, api_token_id=dead.record.api_token_id)
    )
    await authority.catch_up()
    _, verifier = await authority.create_verifier()
    for token in (
        "",
        "nonsense",
        "a.b.c",
        "rpzt_" + "A" * 64,
        code,
        client.secret,
        good.refresh_token,
        expired.access_token,
        elsewhere.access_token,
        revoked.access_token,
        dead.api_token,
        good.access_token + "=",
        good.access_token[:-1],
        "Bearer " + good.access_token,
    ):
        assert await introspect(verifier, token) == INACTIVE, token
    assert (await introspect(verifier, good.access_token)).active


async def test_r218_administrator_sees_no_tokens_of_other_resources(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    assert await introspect(authority.admin, tokens.access_token) == INACTIVE


async def test_r104_tokens_of_a_locked_or_deleted_app_are_inactive(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    api_token = (await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])).api_token
    _, verifier = await authority.create_verifier()
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id))
    await authority.catch_up()
    assert [await introspect(verifier, token) for token in (tokens.access_token, api_token)] == [INACTIVE] * 2
    await authority.admin.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=client.app_id))
    await authority.catch_up()
    assert await introspect(verifier, tokens.access_token) == INACTIVE
    assert (await introspect(verifier, api_token)).active
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=client.app_id))
    await authority.catch_up()
    assert [await introspect(verifier, token) for token in (tokens.access_token, api_token)] == [INACTIVE] * 2


async def test_r103_caller_must_authenticate_and_have_the_scope(authority: TestAuthority) -> None:
    client = await authority.create_client()
    token = (await authority.sign_in(client)).access_token
    request = pb.IntrospectTokenRequest(token=token)
    assert await refusal(authority.anonymous.tokens.IntrospectToken(request)) == Reason.CREDENTIALS_MISSING
    secret = basic(client.app_id, client.secret)
    found = authority.anonymous.tokens.IntrospectToken(request, metadata=secret)
    assert await refusal(found) == Reason.TOKEN_INVALID
    _, verifier = await authority.create_verifier(scopes=["rpz.verify"])
    assert await refusal(verifier.tokens.IntrospectToken(request)) == Reason.SCOPE_INSUFFICIENT
