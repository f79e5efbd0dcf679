from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.access_token import LEEWAY
from rpz_auth.errors import Reason
from rpz_auth_server.domain.grant import AFTER_EXPIRY
from server.authority import ORDERS, START, Client, TestAuthority, basic, bearer, outcome, refusal

DONE = pb.RevokeTokenResponse()


async def revoke(authority: TestAuthority, client: Client, token: str, hint: str = "") -> object:
    request = pb.RevokeTokenRequest(token=token, token_type_hint=hint, **client.body)
    return await outcome(authority.anonymous.tokens.RevokeToken(request))


@pytest.mark.parametrize("hint", ["", "refresh_token", "access_token", "nonsense"])
async def test_r101_refresh_token_takes_the_whole_grant_with_it(authority: TestAuthority, hint: str) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    assert await revoke(authority, client, second.refresh_token, hint) == DONE
    assert await refusal(authority.refresh(client, second.refresh_token)) == Reason.GRANT_INVALID
    for token in (first.access_token, second.access_token):
        assert not await authority.is_alive(token)
    assert (await authority.actions()).count("grant.revoke") == 1


async def test_r101_superseded_refresh_token_revokes_the_grant_too(authority: TestAuthority) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    await authority.advance(3600)
    assert await revoke(authority, client, first.refresh_token) == DONE
    assert await refusal(authority.refresh(client, second.refresh_token)) == Reason.GRANT_INVALID


@pytest.mark.parametrize("hint", ["", "refresh_token", "access_token"])
async def test_r101_access_token_goes_alone(authority: TestAuthority, hint: str) -> None:
    client = await authority.create_client()
    first = await authority.sign_in(client)
    second = await authority.refresh(client, first.refresh_token)
    assert await revoke(authority, client, first.access_token, hint) == DONE
    assert not await authority.is_alive(first.access_token)
    assert await authority.is_alive(second.access_token)
    assert (await authority.refresh(client, second.refresh_token)).access_token


async def test_r100_unknown_expired_and_revoked_tokens_are_answered_alike_and_write_nothing(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    old = await authority.sign_in(client)
    await authority.advance(7200)
    revoked = await authority.sign_in(client)
    await revoke(authority, client, revoked.access_token)
    await revoke(authority, client, revoked.refresh_token)
    await authority.catch_up()
    audit, cursor = await authority.audit(), await authority.store.cursor()
    for token in (
        "",
        "nonsense",
        "rpzr_" + "A" * 64,
        "a.b.c",
        "x" * 9000,
        old.access_token,
        old.access_token[:-4] + "AAAA",
        revoked.access_token,
        revoked.refresh_token,
        code,
        client.secret,
    ):
        assert await revoke(authority, client, token) == DONE
    assert (await authority.audit(), await authority.store.cursor()) == (audit, cursor)


async def test_r102_token_of_another_app_is_not_revoked(authority: TestAuthority) -> None:
    owner, other = await authority.create_client(), await authority.create_client()
    public = await authority.create_public_client()
    tokens = await authority.sign_in(owner)
    for client in (other, public):
        for token in (tokens.refresh_token, tokens.access_token):
            assert await revoke(authority, client, token) == DONE
    assert await authority.is_alive(tokens.access_token)
    assert (await authority.refresh(owner, tokens.refresh_token)).access_token


async def test_r015_client_must_authenticate(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    for secret in ("", "wrong"):
        found = await revoke(authority, Client(client.app_id, secret), tokens.refresh_token)
        assert found == Reason.CLIENT_INVALID
    request = pb.RevokeTokenRequest(token=tokens.refresh_token)
    for metadata in ((), bearer(tokens.access_token), basic(client.app_id, "x")):
        found = await outcome(authority.anonymous.tokens.RevokeToken(request, metadata=metadata))
        assert found == Reason.CLIENT_INVALID
    assert (await authority.refresh(client, tokens.refresh_token)).access_token


async def test_r092_whitelist_holds_and_locked_app_is_no_client(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    await authority.update_app(client.app_id, whitelist=["192.0.2.1"])
    assert await revoke(authority, client, tokens.refresh_token) == Reason.ORIGIN_NOT_ALLOWED
    await authority.admin.apps.LockApp(app_pb.LockAppRequest(app_id=client.app_id))
    assert await revoke(authority, client, tokens.refresh_token) == Reason.CLIENT_INVALID


@pytest.mark.parametrize("lifetime", [3600, 7200])
async def test_revoked_access_token_is_forgotten_when_it_has_been_expired_for_a_while(
    authority: TestAuthority, lifetime: float
) -> None:
    """However many are made and revoked, verifiers remember those of a few hours and not of a day."""
    client = await authority.create_client(access_token_lifetime=Duration(seconds=int(lifetime)))
    tokens = await authority.sign_in(client)
    await authority.advance(1800)
    assert await revoke(authority, client, tokens.access_token) == DONE
    expires_at = int(START + lifetime)
    (revocation,) = (await authority.store.inner.snapshot()).revocations
    assert revocation.forget_at == expires_at + AFTER_EXPIRY
    assert AFTER_EXPIRY >= LEEWAY + 300


@pytest.mark.parametrize("hint", ["", "refresh_token", "access_token"])
async def test_r101_api_token_of_the_app_is_revoked_everywhere(authority: TestAuthority, hint: str) -> None:
    client = await authority.create_client()
    created = await authority.create_api_token(client.app_id, ["orders.read"], [ORDERS])
    assert await authority.is_alive(created.api_token)
    assert await revoke(authority, client, created.api_token, hint) == DONE
    assert not await authority.is_alive(created.api_token)
    assert authority.authority.view.is_revoked(created.record.api_token_id)  # and so at every verifier
    (record,) = [each.audit for each in await authority.audit() if each.audit.action == "api_token.revoke"]
    assert (record.actor, record.details) == (
        f"app:{client.app_id}",
        {"api_token_id": created.record.api_token_id},
    )
    assert await revoke(authority, client, created.api_token, hint) == DONE
    assert (await authority.actions()).count("api_token.revoke") == 1


async def test_r102_api_token_of_another_app_is_not_revoked_nor_a_forged_one(
    authority: TestAuthority,
) -> None:
    client, other = await authority.create_client(), await authority.create_client()
    created = await authority.create_api_token(other.app_id, ["orders.read"], [ORDERS])
    forged = created.api_token[:-4] + ("AAAA" if not created.api_token.endswith("AAAA") else "BBBB")
    for token in (created.api_token, forged, "rpzt_", "rpzt_x"):
        assert await revoke(authority, client, token) == DONE
    assert await authority.is_alive(created.api_token)
    assert "api_token.revoke" not in await authority.actions()
