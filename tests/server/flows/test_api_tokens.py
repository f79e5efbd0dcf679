from __future__ import annotations

from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import Reason
from server.authority import ORDERS, STOCK, Stubs, TestAuthority, outcome, refusal

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
