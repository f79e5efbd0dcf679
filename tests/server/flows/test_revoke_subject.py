from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import Reason
from server.authority import FakeTime, Stubs, TestAuthority, outcome, refusal, running_authority


async def revoke(stubs: Stubs, subject: str) -> object:
    answer = await outcome(stubs.tokens.RevokeSubject(pb.RevokeSubjectRequest(subject=subject)))
    return answer.revoked_grants if isinstance(answer, pb.RevokeSubjectResponse) else answer


async def test_r212_every_grant_and_waiting_code_of_the_user_ends_and_nobody_elses(
    authority: TestAuthority,
) -> None:
    shop, other = await authority.create_client(), await authority.create_client()
    mine = [await authority.sign_in(client) for client in (shop, other)]
    code = await authority.issue_code(shop)
    neighbour = await authority.sign_in(shop, subject="user:10")
    assert await revoke(authority.admin, "user:1") == 3
    for tokens, client in zip(mine, (shop, other), strict=True):
        assert not await authority.is_alive(tokens.access_token)
        assert await refusal(authority.refresh(client, tokens.refresh_token)) == Reason.GRANT_INVALID
    assert await refusal(authority.exchange(shop, code)) == Reason.GRANT_INVALID
    assert await authority.is_alive(neighbour.access_token)
    assert (await authority.refresh(shop, neighbour.refresh_token)).access_token
    assert await revoke(authority.admin, "user:1") == 0


async def test_user_signs_in_again_in_the_same_second(authority: TestAuthority) -> None:
    client = await authority.create_client()
    await authority.sign_in(client)
    assert await revoke(authority.admin, "user:1") == 1
    assert await authority.is_alive((await authority.sign_in(client)).access_token)


async def test_grant_whose_refresh_token_has_expired_has_no_access_left_to_revoke(tmp_path: Path) -> None:
    lifetimes: dict[str, Any] = {"refresh_idle_lifetime": 300, "access_token_lifetime": 7200}
    async with running_authority(tmp_path / "a", time=FakeTime(), **lifetimes) as authority:
        client = await authority.create_client()
        tokens = await authority.sign_in(client)
        assert tokens.expires_in == 300
        await authority.advance(299)
        assert await authority.is_alive(tokens.access_token)
        await authority.advance(1)
        assert await revoke(authority.admin, "user:1") == 0
        assert not await authority.is_alive(tokens.access_token)


async def test_more_grants_than_one_batch_are_revoked(authority: TestAuthority) -> None:
    client = await authority.create_client()
    for _ in range(101):
        await authority.issue_code(client)
    assert await revoke(authority.admin, "user:1") == 101


@pytest.mark.parametrize("subject", ["admin:1", "", "user", "app:1"])
async def test_a17_sign_in_service_revokes_only_subjects_of_its_prefix(
    authority: TestAuthority, subject: str
) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client, subject="admin:1")
    listed = app_pb.SignIn(client_ids=[client.app_id], subject_prefix="user:")
    _, service = await authority.app_with("rpz.codes.issue", sign_in=listed)
    assert await revoke(service, subject) == Reason.RIGHTS_INSUFFICIENT
    assert await authority.is_alive(tokens.access_token)


async def test_service_that_is_listed_for_nobody_revokes_nobody(authority: TestAuthority) -> None:
    client = await authority.create_client()
    await authority.sign_in(client)
    _, service = await authority.app_with("rpz.codes.issue")
    _, without = await authority.app_with("rpz.apps")
    assert await revoke(service, "user:1") == Reason.RIGHTS_INSUFFICIENT
    assert await revoke(without, "user:1") == Reason.SCOPE_INSUFFICIENT
    assert await revoke(authority.admin, "app:x") == Reason.REQUEST_INVALID
