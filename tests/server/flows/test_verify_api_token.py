from __future__ import annotations

import base64

import grpc
import pytest
import rpz_auth
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import Reason
from rpz_auth_server.flows.verify_api_token import verify_api_token
from server.authority import ORDERS, STOCK, TestAuthority, basic, refusal

LIST_APPS = app_pb.ListAppsRequest()


@pytest.mark.parametrize("header", ["authorization", "x-rpz-auth"])
async def test_r090_works_as_basic_with_the_app_id(authority: TestAuthority, header: str) -> None:
    metadata = basic(authority.bootstrap["app_id"], authority.bootstrap["api_token"], header)
    assert (await authority.anonymous.apps.ListApps(LIST_APPS, metadata=metadata)).apps


async def test_r091_unknown_id_and_wrong_token_get_the_same_bytes(authority: TestAuthority) -> None:
    app_id, token = authority.bootstrap["app_id"], authority.bootstrap["api_token"]
    other = await authority.create_app()
    of_other = (await authority.create_api_token(other.app_id, ["orders.read"], [ORDERS])).api_token
    secret = await authority.create_secret(other.app_id)
    attempts = [
        (app_id, token[:-1] + ("A" if token[-1] != "A" else "B")),
        (app_id, "rpzt_" + "A" * 64),
        (app_id, of_other),
        (app_id, "wrong"),
        (other.app_id, token),
        (other.app_id, of_other),  # good, but for another resource
        (other.app_id, secret),
        ("00000000-0000-4000-8000-000000000000", token),
        ("00000000-0000-4000-8000-000000000000", "wrong"),
        ("nonsense", token),
        (app_id.upper(), token),
    ]
    answers = []
    for user, password in attempts:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await authority.anonymous.apps.ListApps(LIST_APPS, metadata=basic(user, password))
        answers.append((caught.value.code(), caught.value.details(), tuple(caught.value.trailing_metadata())))
    assert answers[0][0] is grpc.StatusCode.UNAUTHENTICATED
    assert all(answer == answers[0] for answer in answers)


async def test_token_ends_with_its_app(authority: TestAuthority) -> None:
    app = await authority.create_app()
    token = (await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS])).api_token
    assert await verify_api_token(authority.authority, app.app_id, token) is not None
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=app.app_id))
    assert await verify_api_token(authority.authority, app.app_id, token) is None


async def test_expired_token_is_refused(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    request = pb.CreateApiTokenRequest(
        app_id=app_id, scopes=["rpz.apps"], resources=[authority.settings.issuer]
    )
    request.expire_time.FromSeconds(int(authority.store.now()) + 100)
    short = (await authority.admin.tokens.CreateApiToken(request)).api_token
    expiring = authority.stubs(rpz_auth.ApiToken(app_id, short))
    await authority.advance(99)
    await expiring.apps.ListApps(LIST_APPS)
    await authority.advance(1)
    assert await refusal(expiring.apps.ListApps(LIST_APPS)) == Reason.TOKEN_EXPIRED
    await authority.advance(1000)
    assert await refusal(expiring.apps.ListApps(LIST_APPS)) in (Reason.TOKEN_EXPIRED, Reason.TOKEN_INVALID)
    await stubs.apps.ListApps(LIST_APPS)


async def test_revoked_token_is_refused_although_it_was_cached(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    await stubs.apps.ListApps(LIST_APPS)
    (record,) = (
        await authority.admin.tokens.ListApiTokens(pb.ListApiTokensRequest(app_id=app_id))
    ).api_tokens
    request = pb.RevokeApiTokenRequest(app_id=app_id, api_token_id=record.api_token_id)
    await authority.admin.tokens.RevokeApiToken(request)
    await authority.catch_up()
    assert await refusal(stubs.apps.ListApps(LIST_APPS)) == Reason.TOKEN_INVALID
    audit = await authority.audit()
    await authority.admin.tokens.RevokeApiToken(request)
    assert await authority.audit() == audit
    (record,) = (
        await authority.admin.tokens.ListApiTokens(pb.ListApiTokensRequest(app_id=app_id))
    ).api_tokens
    assert record.HasField("revoke_time")


async def test_locked_apps_token_rests_and_deleted_apps_token_is_dead(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=app_id))
    await authority.catch_up()
    assert await refusal(stubs.apps.ListApps(LIST_APPS)) == Reason.TOKEN_INVALID
    await authority.admin.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=app_id))
    await authority.catch_up()
    await authority.advance(6)  # for as long a refusal is remembered
    await stubs.apps.ListApps(LIST_APPS)
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=app_id))
    await authority.catch_up()
    assert await refusal(stubs.apps.ListApps(LIST_APPS)) == Reason.TOKEN_INVALID


async def test_r092_whitelist_holds_for_a_cached_token(authority: TestAuthority) -> None:
    app_id, stubs = await authority.app_with("rpz.apps")
    await stubs.apps.ListApps(LIST_APPS)
    await authority.update_app(app_id, whitelist=["192.0.2.1"])
    await authority.catch_up()
    assert await refusal(stubs.apps.ListApps(LIST_APPS)) == Reason.ORIGIN_NOT_ALLOWED


async def test_what_is_taken_from_the_app_is_taken_from_its_tokens(authority: TestAuthority) -> None:
    app = await authority.create_app(scopes=["a", "b"], resources=[ORDERS, STOCK])
    token = (await authority.create_api_token(app.app_id, ["a", "b"], [ORDERS, STOCK])).api_token
    _, verifier = await authority.create_verifier(ORDERS, STOCK)
    request = pb.IntrospectTokenRequest(token=token)
    await authority.update_app(app.app_id, scopes=["a"], resources=[STOCK])
    answer = await verifier.tokens.IntrospectToken(request)
    assert (list(answer.scopes), list(answer.aud)) == (["a"], [STOCK])
    await authority.update_app(app.app_id, resources=["https://other.example"])
    assert not (await verifier.tokens.IntrospectToken(request)).active


async def test_r014_basic_field_that_is_no_api_token_is_refused(authority: TestAuthority) -> None:
    for raw in (b"no-colon", b"\xff:\xff", b"user:", b":x", b"a:b:c"):
        metadata = (("authorization", "Basic " + base64.b64encode(raw).decode()),)
        found = await refusal(authority.anonymous.apps.ListApps(LIST_APPS, metadata=metadata))
        assert found == Reason.TOKEN_INVALID
