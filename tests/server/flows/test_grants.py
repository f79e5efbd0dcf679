from __future__ import annotations

from pathlib import Path
from typing import Any

from rpz.auth.v1 import token_service_pb2 as pb
from rpz_auth.errors import Reason
from server.authority import (
    ORDERS,
    START,
    FakeTime,
    Stubs,
    TestAuthority,
    outcome,
    refusal,
    running_authority,
)


async def listed(as_: Stubs, **fields: Any) -> Any:
    answer = await outcome(as_.tokens.ListGrants(pb.ListGrantsRequest(**fields)))
    return list(answer.grants) if isinstance(answer, pb.ListGrantsResponse) else answer


async def ids(as_: Stubs, **fields: Any) -> list[tuple[str, str]]:
    """App and subject of each grant that is listed."""
    return sorted((grant.client_id, grant.subject) for grant in await listed(as_, **fields))


async def revoke(as_: Stubs, grant_id: str) -> Any:
    return await outcome(as_.tokens.RevokeGrant(pb.RevokeGrantRequest(grant_id=grant_id)))


async def test_r212_a_grant_says_who_allowed_what_to_whom_and_until_when(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    (grant,) = await listed(authority.admin, client_id=client.app_id)
    expected = pb.Grant(
        grant_id=grant.grant_id,
        client_id=client.app_id,
        subject="user:1",
        scopes=["orders.read"],
        resources=[ORDERS],
        issued_by=f"app:{authority.bootstrap['app_id']}",
    )
    expected.create_time.FromMilliseconds(int(START * 1000))
    expected.expire_time.FromMilliseconds(int(START * 1000) + 30 * 86400 * 1000)
    assert grant == expected
    await authority.advance(10)
    await authority.refresh(client, tokens.refresh_token)
    (grant,) = await listed(authority.admin, client_id=client.app_id)
    expected.expire_time.FromMilliseconds(int(START * 1000) + (30 * 86400 + 10) * 1000)
    expected.last_refresh_time.FromMilliseconds(int(START * 1000) + 10_000)
    assert grant == expected
    assert tokens.refresh_token not in str(grant)


async def test_r212_grants_are_listed_by_app_by_user_or_by_both(authority: TestAuthority) -> None:
    shop, other = await authority.create_client(), await authority.create_client()
    pairs = [(client, f"user:{number}") for client in (shop, other) for number in (1, 2)]
    for client, subject in pairs:
        await authority.sign_in(client, subject=subject)
    admin = authority.admin
    assert await ids(admin, client_id=shop.app_id) == [(shop.app_id, "user:1"), (shop.app_id, "user:2")]
    assert await ids(admin, subject="user:1") == sorted((each.app_id, "user:1") for each in (shop, other))
    assert await ids(admin, client_id=other.app_id, subject="user:2") == [(other.app_id, "user:2")]
    assert await ids(admin, subject="user:") == []
    assert await listed(admin) == Reason.REQUEST_INVALID


async def test_r212_only_what_is_alive_is_listed(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a", time=FakeTime(), refresh_idle_lifetime=300) as authority:
        client = await authority.create_client()
        await authority.issue_code(client, subject="user:waiting")
        gone = await authority.sign_in(client, subject="user:gone")
        await authority.sign_in(client, subject="user:here")
        await authority.anonymous.tokens.RevokeToken(
            pb.RevokeTokenRequest(token=gone.refresh_token, **client.body)
        )
        here, waiting = (client.app_id, "user:here"), (client.app_id, "user:waiting")
        assert await ids(authority.admin, client_id=client.app_id) == [here, waiting]
        await authority.advance(60)
        assert await ids(authority.admin, client_id=client.app_id) == [here]
        await authority.advance(240)
        assert await ids(authority.admin, client_id=client.app_id) == []


async def test_r212_pages_lead_over_dead_rows_to_every_grant_once(authority: TestAuthority) -> None:
    client = await authority.create_client()
    for number in range(7):
        await authority.sign_in(client, subject=f"user:{number}")
    every = {grant.grant_id for grant in await listed(authority.admin, client_id=client.app_id)}
    dead = set(sorted(every)[2:4])
    for grant_id in dead:
        await revoke(authority.admin, grant_id)
    found: list[str] = []
    sizes = []
    token = ""
    while True:
        page = await authority.admin.tokens.ListGrants(
            pb.ListGrantsRequest(client_id=client.app_id, page_size=2, page_token=token)
        )
        found += [grant.grant_id for grant in page.grants]
        sizes.append(len(page.grants))
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(every - dead)
    assert sizes == [2, 0, 2, 1]


async def test_r212_owner_lists_and_revokes_what_was_granted_to_own_apps(authority: TestAuthority) -> None:
    owner_id, owner = await authority.app_with("rpz.apps")
    mine = await authority.create_client(owner=f"app:{owner_id}")
    tokens = await authority.sign_in(mine)
    (grant,) = await listed(owner, client_id=mine.app_id)
    assert await revoke(owner, grant.grant_id) == pb.RevokeGrantResponse()
    assert not await authority.is_alive(tokens.access_token)
    assert await listed(owner, client_id=mine.app_id) == []


async def test_r212_r144_foreign_and_missing_get_the_same_answer(authority: TestAuthority) -> None:
    _, owner = await authority.app_with("rpz.apps")
    foreign = await authority.create_client()
    tokens = await authority.sign_in(foreign)
    (grant,) = await listed(authority.admin, client_id=foreign.app_id)
    missing = "00000000-0000-4000-8000-000000000000"
    for client_id in (foreign.app_id, missing, "nonsense"):
        for subject in ("", "user:1"):
            answer = await refusal(
                owner.tokens.ListGrants(pb.ListGrantsRequest(client_id=client_id, subject=subject))
            )
            assert answer == Reason.NOT_FOUND
    answers = [await revoke(owner, grant_id) for grant_id in (grant.grant_id, "A" * 22, "", "x\0")]
    assert answers[0] == Reason.NOT_FOUND
    assert [answer for answer in answers if answer != answers[0]] == []
    assert await listed(owner, subject="user:1") == Reason.RIGHTS_INSUFFICIENT
    assert await authority.is_alive(tokens.access_token)


async def test_r212_one_revoked_grant_ends_with_its_tokens_and_no_other_does(
    authority: TestAuthority,
) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    other = await authority.sign_in(client, subject="user:2")
    (grant,) = await listed(authority.admin, client_id=client.app_id, subject="user:1")
    assert await revoke(authority.admin, grant.grant_id) == pb.RevokeGrantResponse()
    assert not await authority.is_alive(tokens.access_token)
    assert await refusal(authority.refresh(client, tokens.refresh_token)) == Reason.GRANT_INVALID
    assert await authority.is_alive(other.access_token)
    audit = await authority.audit()
    assert await revoke(authority.admin, grant.grant_id) == pb.RevokeGrantResponse()
    assert await authority.audit() == audit
    (record,) = [record.audit for record in audit if record.audit.action == "grant.revoke"]
    assert (record.app_id, dict(record.details)) == (client.app_id, {"grant_id": grant.grant_id})


async def test_r212_waiting_code_is_revoked_with_its_grant(authority: TestAuthority) -> None:
    client = await authority.create_client()
    code = await authority.issue_code(client)
    (grant,) = await listed(authority.admin, client_id=client.app_id)
    await revoke(authority.admin, grant.grant_id)
    assert await refusal(authority.exchange(client, code)) == Reason.GRANT_INVALID


async def test_r212_refresh_at_the_same_time_does_not_save_the_grant(authority: TestAuthority) -> None:
    client = await authority.create_client()
    tokens = await authority.sign_in(client)
    (grant,) = await listed(authority.admin, client_id=client.app_id)
    renewed = []

    async def refresh_first() -> None:
        authority.store.after.clear()
        renewed.append(await authority.refresh(client, tokens.refresh_token))

    authority.store.after["grant"] = refresh_first
    assert await revoke(authority.admin, grant.grant_id) == pb.RevokeGrantResponse()
    (answer,) = renewed
    assert not await authority.is_alive(answer.access_token)
    assert await refusal(authority.refresh(client, answer.refresh_token)) == Reason.GRANT_INVALID
