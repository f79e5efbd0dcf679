from __future__ import annotations

from typing import Any

import pytest
import rpz_auth
from google.protobuf.duration_pb2 import Duration
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.access_token import verify
from rpz_auth.errors import Reason
from server.authority import ORDERS, START, STOCK, TIMEOUT, TestAuthority, basic, outcome, refusal

API_TOKEN_TYPE = "urn:rpz:token-type:api_token"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"


def request(app_id: str, api_token: str, **fields: Any) -> pb.TokenExchangeRequest:
    defaults = {"subject_token": api_token, "subject_token_type": API_TOKEN_TYPE, "client_id": app_id}
    return pb.TokenExchangeRequest(**{**defaults, **fields})


async def exchange(
    authority: TestAuthority, app_id: str, api_token: str, *, metadata: Any = (), **fields: Any
) -> pb.TokenExchangeResponse:
    answer: pb.TokenExchangeResponse = await authority.anonymous.tokens.TokenExchange(
        request(app_id, api_token, **fields), metadata=metadata, timeout=TIMEOUT
    )
    return answer


async def make(
    authority: TestAuthority,
    scopes: tuple[str, ...] = ("orders.read", "orders.write"),
    resources: tuple[str, ...] = (ORDERS,),
    *,
    expires_in: int | None = None,
    **app_fields: Any,
) -> pb.CreateApiTokenResponse:
    """An App with an API token, which both have just what is said."""
    app = await authority.create_app(scopes=list(scopes), resources=list(resources), **app_fields)
    create = pb.CreateApiTokenRequest(app_id=app.app_id, scopes=scopes, resources=resources)
    if expires_in is not None:
        create.expire_time.FromSeconds(int(authority.store.now()) + expires_in)
    created: pb.CreateApiTokenResponse = await authority.admin.tokens.CreateApiToken(create)
    return created


async def test_r208_api_token_brings_an_access_token_that_says_the_same_of_the_app(
    authority: TestAuthority,
) -> None:
    created = await make(authority)
    app_id = created.record.app_id
    answer = await exchange(authority, app_id, created.api_token)
    assert answer == pb.TokenExchangeResponse(
        access_token=answer.access_token,
        issued_token_type=ACCESS_TOKEN_TYPE,
        token_type="Bearer",
        expires_in=7200,
        scopes=["orders.read", "orders.write"],
    )
    verdict = verify(
        answer.access_token,
        authority.authority.view.keys,
        issuer=authority.settings.issuer,
        resources={ORDERS},
        now=START,
    )
    assert (verdict.app_id, verdict.subject) == (app_id, f"app:{app_id}")
    assert verdict.scopes == {"orders.read", "orders.write"}
    assert (verdict.issued_at, verdict.expires_at) == (int(START), int(START) + 7200)
    assert (verdict.grant_id, verdict.secret_id) == (None, created.record.api_token_id)
    assert await authority.is_alive(answer.access_token)


async def test_r208_access_token_is_taken_where_the_api_token_was(authority: TestAuthority) -> None:
    issuer = authority.settings.issuer
    created = await make(authority, ("rpz.apps",), (issuer,), redirect_uris=[])
    answer = await exchange(authority, created.record.app_id, created.api_token)
    stubs = authority.stubs(rpz_auth.AccessToken(answer.access_token))
    assert await stubs.apps.ListApps(app_pb.ListAppsRequest()) == app_pb.ListAppsResponse()


async def test_r208_scopes_and_resource_are_never_widened(authority: TestAuthority) -> None:
    app = await authority.create_app(scopes=["a", "b", "c"], resources=[ORDERS, STOCK])
    created = await authority.create_api_token(app.app_id, ["a", "b"], [ORDERS])
    token = created.api_token
    part = await exchange(authority, app.app_id, token, scopes=["a"], resource=ORDERS)
    assert list(part.scopes) == ["a"]
    for scopes in (["c"], ["a", "c"], ["rpz.admin"], [""]):
        assert await refusal(exchange(authority, app.app_id, token, scopes=scopes)) == Reason.SCOPE_INVALID
    for resource in (STOCK, authority.settings.issuer, "https://nowhere.example"):
        answer = await refusal(exchange(authority, app.app_id, token, resource=resource))
        assert answer == Reason.TARGET_INVALID


async def test_r208_resource_must_be_named_among_several(authority: TestAuthority) -> None:
    created = await make(authority, resources=(ORDERS, STOCK))
    app_id, token = created.record.app_id, created.api_token
    assert await refusal(exchange(authority, app_id, token)) == Reason.TARGET_INVALID
    answer = await exchange(authority, app_id, token, resource=STOCK)
    assert await authority.is_alive(answer.access_token, STOCK)
    assert not await authority.is_alive(answer.access_token, ORDERS)


async def test_r208_what_was_taken_from_the_app_is_not_exchanged(authority: TestAuthority) -> None:
    created = await make(authority, ("a", "b"), (ORDERS, STOCK))
    app_id = created.record.app_id
    await authority.update_app(app_id, scopes=["b"], resources=[STOCK])
    answer = await exchange(authority, app_id, created.api_token)
    assert list(answer.scopes) == ["b"]
    assert await authority.is_alive(answer.access_token, STOCK)
    await authority.update_app(app_id, scopes=["z"])
    assert await refusal(exchange(authority, app_id, created.api_token)) == Reason.SCOPE_INVALID


async def test_r208_access_token_never_outlives_the_api_token(authority: TestAuthority) -> None:
    created = await make(authority, expires_in=100)
    app_id, token = created.record.app_id, created.api_token
    answer = await exchange(authority, app_id, token)
    assert answer.expires_in == 100
    await authority.advance(99)
    assert await authority.is_alive(answer.access_token)
    assert (await exchange(authority, app_id, token)).expires_in == 1
    await authority.advance(1)
    assert not await authority.is_alive(answer.access_token)
    assert await refusal(exchange(authority, app_id, token)) == Reason.GRANT_INVALID


async def test_r208_the_apps_own_lifetime_counts(authority: TestAuthority) -> None:
    created = await make(authority, access_token_lifetime=Duration(seconds=300))
    answer = await exchange(authority, created.record.app_id, created.api_token)
    assert answer.expires_in == 300


async def test_r208_revoking_the_api_token_ends_its_access_tokens_and_no_others(
    authority: TestAuthority,
) -> None:
    created = await make(authority)
    app_id = created.record.app_id
    other = await authority.create_api_token(app_id, ["orders.read"], [ORDERS])
    mine = [(await exchange(authority, app_id, created.api_token)).access_token for _ in range(2)]
    others = (await exchange(authority, app_id, other.api_token)).access_token
    await authority.admin.tokens.RevokeApiToken(
        pb.RevokeApiTokenRequest(app_id=app_id, api_token_id=created.record.api_token_id)
    )
    assert [await authority.is_alive(token) for token in (*mine, others)] == [False, False, True]
    assert await refusal(exchange(authority, app_id, created.api_token)) == Reason.GRANT_INVALID


async def test_r208_one_access_token_can_be_revoked_alone(authority: TestAuthority) -> None:
    created = await make(authority, kind=app_pb.APP_KIND_DEVICE, redirect_uris=[])
    app_id = created.record.app_id
    first, second = [await exchange(authority, app_id, created.api_token) for _ in range(2)]
    await authority.anonymous.tokens.RevokeToken(
        pb.RevokeTokenRequest(token=first.access_token, client_id=app_id)
    )
    assert not await authority.is_alive(first.access_token)
    assert await authority.is_alive(second.access_token)


async def test_r208_locked_and_deleted_apps_exchange_nothing(authority: TestAuthority) -> None:
    created = await make(authority)
    app_id = created.record.app_id
    before = await exchange(authority, app_id, created.api_token)
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=app_id))
    assert await refusal(exchange(authority, app_id, created.api_token)) == Reason.GRANT_INVALID
    await authority.admin.apps.UnlockApp(app_pb.UnlockAppRequest(app_id=app_id))
    after = await exchange(authority, app_id, created.api_token)
    assert not await authority.is_alive(before.access_token)
    assert await authority.is_alive(after.access_token)
    await authority.admin.apps.DeleteApp(app_pb.DeleteAppRequest(app_id=app_id))
    assert await refusal(exchange(authority, app_id, created.api_token)) == Reason.GRANT_INVALID


async def test_r208_lock_between_the_two_reads_is_seen(authority: TestAuthority) -> None:
    created = await make(authority)
    app_id = created.record.app_id

    async def lock() -> None:
        authority.store.after.clear()
        await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=app_id))

    authority.store.after["app"] = lock
    assert await refusal(exchange(authority, app_id, created.api_token)) == Reason.GRANT_INVALID


async def test_r208_whitelist_is_checked(authority: TestAuthority) -> None:
    created = await make(authority, whitelist=["192.0.2.1"])
    app_id = created.record.app_id
    assert await refusal(exchange(authority, app_id, created.api_token)) == Reason.ORIGIN_NOT_ALLOWED
    used = {use.credential_id for use in authority.authority.uses.take(10)}
    assert created.record.api_token_id not in used
    await authority.update_app(app_id, whitelist=["127.0.0.1"])
    assert (await exchange(authority, app_id, created.api_token)).access_token


async def test_r208_nothing_but_a_live_api_token_of_this_app_is_exchanged(authority: TestAuthority) -> None:
    created, other = await make(authority), await make(authority)
    app_id, token = created.record.app_id, created.api_token
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    access_token = (await exchange(authority, app_id, token)).access_token
    wrong = [
        (app_id, other.api_token),
        (other.record.app_id, token),
        ("", token),
        ("00000000-0000-4000-8000-000000000000", token),
        ("nonsense\0", token),
        (app_id, ""),
        (app_id, "rpzt_" + "A" * 64),
        (app_id, token[:-1] + ("A" if token[-1] != "A" else "B")),
        (app_id, access_token),
        (client.app_id, client.secret),
        (client.app_id, tokens.refresh_token),
        (client.app_id, await authority.issue_code(client)),
    ]
    answers = [await refusal(exchange(authority, *pair)) for pair in wrong]
    assert answers[0] == Reason.GRANT_INVALID
    assert [answer for answer in answers if answer != answers[0]] == []


@pytest.mark.parametrize(
    "kind", ["", ACCESS_TOKEN_TYPE, API_TOKEN_TYPE.upper(), API_TOKEN_TYPE + " ", "api_token"]
)
async def test_r208_type_of_the_token_must_be_said(authority: TestAuthority, kind: str) -> None:
    created = await make(authority)
    answer = await refusal(
        exchange(authority, created.record.app_id, created.api_token, subject_token_type=kind)
    )
    assert answer == Reason.REQUEST_INVALID


async def test_r208_a_secret_that_is_given_besides_must_be_good(authority: TestAuthority) -> None:
    created = await make(authority)
    app_id, token = created.record.app_id, created.api_token
    secret = await authority.create_secret(app_id)
    foreign = (await authority.create_client()).secret
    assert (await exchange(authority, app_id, token, client_secret=secret)).access_token
    assert (await exchange(authority, app_id, token, client_id="", metadata=basic(app_id, secret))).scopes
    for given in (foreign, "wrong"):
        assert await refusal(exchange(authority, app_id, token, client_secret=given)) == Reason.CLIENT_INVALID
        answer = await refusal(exchange(authority, app_id, token, metadata=basic(app_id, given)))
        assert answer == Reason.CLIENT_INVALID
    answer = await refusal(
        exchange(authority, app_id, token, client_secret=secret, metadata=basic(app_id, secret))
    )
    assert answer == Reason.CREDENTIALS_AMBIGUOUS
    # The API token in the metadata is no secret.
    assert await refusal(exchange(authority, app_id, token, metadata=basic(app_id, token))) == (
        Reason.CLIENT_INVALID
    )


async def test_r208_exchanging_writes_nothing(authority: TestAuthority) -> None:
    created = await make(authority)
    audit = await authority.audit()
    authority.store.calls.clear()
    for _ in range(3):
        await exchange(authority, created.record.app_id, created.api_token)
    assert "commit" not in authority.asked()
    assert await authority.audit() == audit


async def test_r208_forgery_costs_no_read_of_its_token(authority: TestAuthority) -> None:
    created = await make(authority)
    authority.store.calls.clear()
    await outcome(exchange(authority, created.record.app_id, "rpzt_" + "A" * 64))
    assert "api_token" not in authority.asked()
