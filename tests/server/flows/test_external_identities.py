from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rpz_auth_server.domain.account import identity_id
from rpz_auth_server.domain.refusal import Conflict, RequestInvalid
from rpz_auth_server.flows import external_identities
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.external_identities import OutsideIdentity
from rpz_auth_server.flows.sign_in import SignedIn, SignInRefused
from rpz_auth_server.storage.store import Commit
from server.authority import TestAuthority
from server.people import ELSEWHERE, a_person, hurried

JANE = OutsideIdentity(issuer="https://op.example", subject="1", name="Jane Doe")


@pytest.fixture
def flows(authority: TestAuthority) -> Authority:
    return hurried(authority.authority)


async def arrive(flows: Authority, identity: OutsideIdentity = JANE, *, may_sign_up: bool = True) -> SignedIn:
    return await external_identities.sign_in_with(flows, identity, ELSEWHERE, may_sign_up=may_sign_up)


def together(authority: TestAuthority, count: int) -> None:
    """Have so many read what there is before the first of them writes."""
    waiting, left = asyncio.Barrier(count), [count]

    async def meet(_commit: Commit) -> None:
        if left[0]:
            left[0] -= 1
            await waiting.wait()

    authority.store.before["commit"] = meet


async def test_account_and_link_of_somebody_new_are_one_commit(
    authority: TestAuthority, flows: Authority
) -> None:
    before = authority.store.calls.count("commit")
    jane = (await arrive(flows)).person
    assert authority.store.calls.count("commit") == before + 2  # and the session
    assert (jane.account.display_name, jane.account.password_hash) == ("Jane Doe", None)
    assert (await arrive(flows, may_sign_up=False)).person.subject == jane.subject
    assert (await authority.actions())[-4:-1] == ["account.create", "account.link", "account.sign_in"]


async def test_a143_who_signs_in_while_the_link_is_taken_away_is_refused(
    authority: TestAuthority, flows: Authority
) -> None:
    bob = await a_person(flows)
    await external_identities.link(flows, bob, JANE)
    linked_id = identity_id(JANE.issuer, JANE.subject)

    async def unlink_first(_commit: Commit) -> None:
        authority.store.before.clear()
        await external_identities.unlink(flows, bob, linked_id)

    authority.store.before["commit"] = unlink_first
    with pytest.raises(Conflict):
        await arrive(flows)
    assert len(await flows.store.sessions(bob.account.account_id)) == 1


async def test_two_windows_of_somebody_new_make_one_account(
    authority: TestAuthority, flows: Authority
) -> None:
    together(authority, 2)
    first, second = await asyncio.gather(arrive(flows), arrive(flows))
    assert first.person.subject == second.person.subject
    assert len(await flows.store.accounts(after="", limit=5)) == 1


async def test_who_has_taken_the_link_away_is_not_signed_up_again(flows: Authority) -> None:
    jane = (await arrive(flows)).person
    other = OutsideIdentity(issuer="https://op.example", subject="2")
    await external_identities.link(flows, jane, other)
    await external_identities.unlink(flows, jane, identity_id(JANE.issuer, JANE.subject))
    with pytest.raises(SignInRefused):
        await arrive(flows)
    assert (await arrive(flows, other)).person.subject == jane.subject


async def test_a128_of_two_last_links_that_go_at_once_one_stays(
    authority: TestAuthority, flows: Authority
) -> None:
    jane = (await arrive(flows)).person
    await external_identities.link(flows, jane, OutsideIdentity(issuer="https://op.example", subject="2"))
    linked = await external_identities.list_identities(flows, jane)
    together(authority, 2)
    acts: Any = [external_identities.unlink(flows, jane, one.identity_id) for one in linked]
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "RequestInvalid"]
    assert len(await external_identities.list_identities(flows, jane)) == 1


async def test_identity_of_somebody_else_is_not_linked(flows: Authority) -> None:
    await arrive(flows)
    with pytest.raises(RequestInvalid, match="another account"):
        await external_identities.link(flows, await a_person(flows), JANE)


async def test_own_identity_that_is_linked_again_stays_as_it_is(
    authority: TestAuthority, flows: Authority
) -> None:
    jane = (await arrive(flows)).person
    linked, records = await external_identities.list_identities(flows, jane), await authority.audit()
    await external_identities.link(flows, jane, JANE)
    assert await external_identities.list_identities(flows, jane) == linked
    assert await authority.audit() == records
