from __future__ import annotations

import base64
from typing import Any

import grpc
import pytest
import rpz_auth
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import Reason
from rpz_auth_server.flows.api_tokens import verify_api_token
from server.authority import ORDERS, STOCK, Stubs, TestAuthority, basic, outcome, refusal

LIST_APPS = app_pb.ListAppsRequest()


async def test_token_is_shown_once_and_its_record_never_holds_it(authority: TestAuthority) -> None:
    app = await authority.create_app(resources=[ORDERS, STOCK])
    deadline = int(authority.store.now()) + 1000
    request = pb.CreateApiTokenRequest(
        app_id=app.app_id, display_name="nightly", scopes=["orders.read"], resources=[ORDERS]
    )
    request.expire_time.FromSeconds(deadline)
    created = await authority.admin.tokens.CreateApiToken(request)
    assert created.api_token.startswith("rpzt_")
    record = created.record
    expected = pb.ApiToken(
        api_token_id=record.api_token_id,
        app_id=app.app_id,
        display_name="nightly",
        scopes=["orders.read"],
        resources=[ORDERS],
    )
    expected.create_time.FromMilliseconds(int(authority.store.now() * 1000))
    expected.expire_time.FromSeconds(deadline)
    assert record == expected
    listed = await authority.admin.tokens.ListApiTokens(pb.ListApiTokensRequest(app_id=app.app_id))
    assert listed == pb.ListApiTokensResponse(api_tokens=[expected])
    assert created.api_token not in str(listed)
    assert created.api_token not in repr(await authority.audit())


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


@pytest.mark.parametrize(
    ("scopes", "resources", "reason"),
    [
        ([], [ORDERS], Reason.SCOPE_INVALID),
        (["orders.delete"], [ORDERS], Reason.SCOPE_INVALID),
        (["orders.read", "orders.delete"], [ORDERS], Reason.SCOPE_INVALID),
        (["rpz.admin"], [ORDERS], Reason.SCOPE_INVALID),
        (["orders.read orders.write"], [ORDERS], Reason.SCOPE_INVALID),
        ([""], [ORDERS], Reason.SCOPE_INVALID),
        (["orders.read"], [], Reason.TARGET_INVALID),
        (["orders.read"], [STOCK], Reason.TARGET_INVALID),
        (["orders.read"], [ORDERS, STOCK], Reason.TARGET_INVALID),
        (["orders.read"], [ORDERS + "/"], Reason.TARGET_INVALID),
    ],
)
async def test_scopes_and_resources_are_the_apps_and_have_no_default(
    authority: TestAuthority, scopes: list[str], resources: list[str], reason: Reason
) -> None:
    app = await authority.create_app()
    request = pb.CreateApiTokenRequest(app_id=app.app_id, scopes=scopes, resources=resources)
    assert await refusal(authority.admin.tokens.CreateApiToken(request)) == reason


@pytest.mark.parametrize("seconds", [-62135596801, -1, 0, 1_700_000_000, 253402300799, 253402300800, 2**62])
async def test_deadline_is_a_time_in_the_future(authority: TestAuthority, seconds: int) -> None:
    app = await authority.create_app()
    request = pb.CreateApiTokenRequest(app_id=app.app_id, scopes=["orders.read"], resources=[ORDERS])
    request.expire_time.seconds = seconds
    request.expire_time.nanos = 999_999_999
    found = await outcome(authority.admin.tokens.CreateApiToken(request))
    if seconds == 1_700_000_000:  # its end is in the future
        assert found.api_token
    else:
        assert found == Reason.REQUEST_INVALID
    request.expire_time.seconds = 253402300798
    assert (await authority.admin.tokens.CreateApiToken(request)).api_token


@pytest.mark.parametrize("nanos", [-1, 10**9, 2**31 - 1])
async def test_deadline_with_impossible_nanoseconds_is_refused(authority: TestAuthority, nanos: int) -> None:
    app = await authority.create_app()
    request = pb.CreateApiTokenRequest(app_id=app.app_id, scopes=["orders.read"], resources=[ORDERS])
    request.expire_time.seconds, request.expire_time.nanos = 2_000_000_000, nanos
    assert await refusal(authority.admin.tokens.CreateApiToken(request)) == Reason.REQUEST_INVALID


@pytest.mark.parametrize("name", ["x" * 129, "a\nb", "a\x00", "\u202e"])
async def test_display_name_is_short_and_printable(authority: TestAuthority, name: str) -> None:
    app = await authority.create_app()
    request = pb.CreateApiTokenRequest(
        app_id=app.app_id, scopes=["orders.read"], resources=[ORDERS], display_name=name
    )
    assert await refusal(authority.admin.tokens.CreateApiToken(request)) == Reason.REQUEST_INVALID


async def test_tokens_are_listed_in_pages(authority: TestAuthority) -> None:
    app = await authority.create_app()
    made = {
        (await authority.create_api_token(app.app_id, ["orders.read"], [ORDERS])).record.api_token_id
        for _ in range(5)
    }
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListApiTokensRequest(app_id=app.app_id, page_size=2, page_token=token)
        page = await authority.admin.tokens.ListApiTokens(request)
        found += [record.api_token_id for record in page.api_tokens]
        token = page.next_page_token
        if not token:
            break
    assert (found, len(found)) == (sorted(made), 5)
    request = pb.ListApiTokensRequest(app_id=app.app_id, page_size=-1)
    assert await refusal(authority.admin.tokens.ListApiTokens(request)) == Reason.REQUEST_INVALID


async def _of(stubs: Stubs, app_id: str, api_token_id: str) -> list[Any]:
    create = pb.CreateApiTokenRequest(app_id=app_id, scopes=["orders.read"], resources=[ORDERS])
    revoke = pb.RevokeApiTokenRequest(app_id=app_id, api_token_id=api_token_id)
    return [
        await refusal(stubs.tokens.CreateApiToken(create)),
        await refusal(stubs.tokens.ListApiTokens(pb.ListApiTokensRequest(app_id=app_id))),
        await refusal(stubs.tokens.RevokeApiToken(revoke)),
    ]


async def test_r144_a125_foreign_missing_and_deleted_apps_get_the_same_answer(
    authority: TestAuthority,
) -> None:
    foreign, deleted = await authority.create_app(), await authority.create_app()
    token = await authority.create_api_token(foreign.app_id, ["orders.read"], [ORDERS])
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=deleted.app_id))
    _, stubs = await authority.app_with("rpz.apps")
    answers = [
        await _of(stubs, app_id, token.record.api_token_id)
        for app_id in (foreign.app_id, deleted.app_id, "00000000-0000-4000-8000-000000000000", "x", "")
    ]
    assert answers[0] == [Reason.NOT_FOUND] * 3
    assert all(answer == answers[0] for answer in answers)


async def test_token_of_another_app_cannot_be_revoked_through_ones_own(authority: TestAuthority) -> None:
    mine, other = await authority.create_app(), await authority.create_app()
    token = await authority.create_api_token(other.app_id, ["orders.read"], [ORDERS])
    for token_id in (token.record.api_token_id, "nonsense", "", "\x00"):
        request = pb.RevokeApiTokenRequest(app_id=mine.app_id, api_token_id=token_id)
        assert await refusal(authority.admin.tokens.RevokeApiToken(request)) == Reason.NOT_FOUND
    assert await authority.is_alive(token.api_token)


async def test_r014_basic_field_that_is_no_api_token_is_refused(authority: TestAuthority) -> None:
    for raw in (b"no-colon", b"\xff:\xff", b"user:", b":x", b"a:b:c"):
        metadata = (("authorization", "Basic " + base64.b64encode(raw).decode()),)
        found = await refusal(authority.anonymous.apps.ListApps(LIST_APPS, metadata=metadata))
        assert found == Reason.TOKEN_INVALID
