from __future__ import annotations

import asyncio

import pytest
from rpz_auth.errors import Reason
from rpz_auth_server.domain.account import CONSENT_LIFETIME, Consent, consent_id
from rpz_auth_server.domain.refusal import NotFound
from rpz_auth_server.flows import consents
from rpz_auth_server.flows.authority import Authority
from server.authority import ORDERS, STOCK, TestAuthority, refusal
from server.people import a_person, hurried

READ, WRITE = frozenset({"orders.read"}), frozenset({"orders.write"})
PLACES = frozenset({ORDERS})


@pytest.fixture
def flows(authority: TestAuthority) -> Authority:
    return hurried(authority.authority)


async def test_consent_is_remembered_for_this_person_this_app_and_this_much(
    authority: TestAuthority, flows: Authority
) -> None:
    bob, eve = await a_person(flows), await a_person(flows, "eve")
    shop, other = (await authority.create_app()).app_id, (await authority.create_app()).app_id
    assert not await consents.is_remembered(flows, bob, shop, READ, PLACES)
    await consents.remember(flows, bob, shop, READ, PLACES)
    assert await consents.is_remembered(flows, bob, shop, READ, PLACES)
    assert not await consents.is_remembered(flows, bob, shop, READ | WRITE, PLACES)
    assert not await consents.is_remembered(flows, bob, shop, READ, frozenset({STOCK}))
    assert not await consents.is_remembered(flows, bob, other, READ, PLACES)
    assert not await consents.is_remembered(flows, eve, shop, READ, PLACES)
    await authority.advance(CONSENT_LIFETIME)
    assert not await consents.is_remembered(flows, bob, shop, READ, PLACES)


async def test_consents_given_at_the_same_time_are_all_remembered(
    authority: TestAuthority, flows: Authority
) -> None:
    bob, shop = await a_person(flows), (await authority.create_app()).app_id
    scopes = [frozenset({f"scope.{number}"}) for number in range(5)]
    await asyncio.gather(*(consents.remember(flows, bob, shop, one, PLACES) for one in scopes))
    now = authority.store.now()
    assert await consents.list_consents(flows, bob, after="", limit=10) == [
        Consent(
            consent_id=consent_id(bob.subject, shop),
            subject=bob.subject,
            app_id=shop,
            scopes=frozenset().union(*scopes),
            resources=PLACES,
            created_at=now,
            expires_at=now + CONSENT_LIFETIME,
            version=5,
        )
    ]


async def test_r212_withdrawn_consent_ends_what_the_app_got_and_nothing_else(
    authority: TestAuthority, flows: Authority
) -> None:
    bob, eve = await a_person(flows), await a_person(flows, "eve")
    shop, other = await authority.create_client(), await authority.create_client()
    mine = await authority.sign_in(shop, subject=bob.subject)
    code = await authority.issue_code(shop, subject=bob.subject)
    kept = [
        await authority.sign_in(other, subject=bob.subject),
        await authority.sign_in(shop, subject=eve.subject),
    ]
    await consents.remember(flows, bob, shop.app_id, READ, PLACES)
    assert await consents.withdraw(flows, bob, shop.app_id) == 2
    assert (await authority.actions())[-3:] == ["consent.withdraw", "grant.revoke", "grant.revoke"]
    assert not await consents.is_remembered(flows, bob, shop.app_id, READ, PLACES)
    assert not await authority.is_alive(mine.access_token)
    assert all([await authority.is_alive(tokens.access_token) for tokens in kept])
    assert await refusal(authority.exchange(shop, code)) == Reason.GRANT_INVALID
    with pytest.raises(NotFound):
        await consents.withdraw(flows, bob, shop.app_id)


async def test_consent_given_again_begins_anew(authority: TestAuthority, flows: Authority) -> None:
    bob, shop = await a_person(flows), (await authority.create_app()).app_id
    await consents.remember(flows, bob, shop, READ | WRITE, PLACES)
    await consents.withdraw(flows, bob, shop)
    await consents.remember(flows, bob, shop, READ, PLACES)
    assert not await consents.is_remembered(flows, bob, shop, WRITE, PLACES)


@pytest.mark.parametrize("app_id", ["", "unknown", "0f9f3a52-8d0c-4d0e-9c39-6cf1f9b7a001"])
async def test_nothing_can_be_withdrawn_that_was_not_given(flows: Authority, app_id: str) -> None:
    bob = await a_person(flows)
    with pytest.raises(NotFound):
        await consents.withdraw(flows, bob, app_id)


@pytest.mark.parametrize("app_id", ["", "nonsense", "\x00", "\ud800"], ids=ascii)
async def test_nothing_is_withdrawn_from_what_is_no_app_id(flows: Authority, app_id: str) -> None:
    with pytest.raises(NotFound):
        await consents.withdraw(flows, await a_person(flows), app_id)
