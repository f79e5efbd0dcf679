from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.crypto.passwords import Passwords
from rpz_auth_server.domain.account import Role
from rpz_auth_server.domain.refusal import NotFound
from rpz_auth_server.flows import sign_in
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.limits import SLOW_AT_ONCE
from rpz_auth_server.flows.sign_in import ABSOLUTE_LIFETIME, IDLE_LIFETIME, MAX_SESSIONS, SignInRefused
from rpz_auth_server.storage.store import Commit
from server.authority import TestAuthority
from server.people import ELSEWHERE, LOCAL, PASSWORD, a_person, hurried, sign_in_again, signed_in


@pytest.fixture
def flows(authority: TestAuthority) -> Authority:
    return hurried(authority.authority)


async def is_signed_in(flows: Authority, token: str) -> bool:
    try:
        await sign_in.authenticate(flows, token, LOCAL.peer)
    except SignInRefused:
        return False
    return True


async def test_person_is_who_signed_in_with_the_rights_of_the_role(flows: Authority) -> None:
    bob = await a_person(flows)
    again = await sign_in_again(flows, " BOB ")
    found = await sign_in.authenticate(flows, again.token, ELSEWHERE.peer)
    assert found == again.person
    assert (found.subject, found.app_id, found.scopes) == (bob.subject, "", frozenset({"rpz.apps"}))
    root = await a_person(flows, "root", role=Role.ADMINISTRATOR)
    assert "rpz.admin" in root.scopes


@pytest.mark.parametrize(
    ("user_name", "password"),
    [
        ("bob", "wrong password"),
        ("bob", ""),
        ("eve", PASSWORD),
        ("", ""),
        ("b\0b", PASSWORD),
        ("new", PASSWORD),
    ],
)
async def test_r145_whatever_is_wrong_is_refused_in_the_same_way(
    flows: Authority, user_name: str, password: str
) -> None:
    await a_person(flows)
    with pytest.raises(SignInRefused) as refused:
        await sign_in_again(flows, user_name, password=password)
    assert refused.value.args == ()


async def test_r145_disabled_account_is_refused_like_a_wrong_password(
    authority: TestAuthority, flows: Authority
) -> None:
    bob = await a_person(flows)
    account = replace(bob.account, disabled=True, version=bob.account.version + 1)
    await authority.store.commit(Commit(rows=(account,)))
    with pytest.raises(SignInRefused):
        await sign_in_again(flows)
    assert not await is_signed_in(flows, "x" * 43)


async def test_r140_session_of_a_browser_is_replaced_when_it_signs_in_again(flows: Authority) -> None:
    before = await signed_in(flows)
    after = await sign_in_again(flows, browser=replace(LOCAL, replaces=before.token))
    assert after.token != before.token
    assert not await is_signed_in(flows, before.token)
    assert await is_signed_in(flows, after.token)


async def test_r140_a143_ended_session_is_dead_in_the_database_too(
    authority: TestAuthority, flows: Authority
) -> None:
    here, there = await signed_in(flows), await sign_in_again(flows)
    await sign_in.end_session(flows, here.person, here.person.session.session_id)
    await sign_in.end_session(flows, here.person, here.person.session.session_id)
    assert not await is_signed_in(flows, here.token)
    assert await is_signed_in(flows, there.token)
    assert (await authority.actions())[-1] == "account.sign_out"


async def test_r144_nobody_ends_or_lists_another_persons_session(flows: Authority) -> None:
    bob, eve = await signed_in(flows), await a_person(flows, "eve")
    for session_id in (bob.person.session.session_id, "unknown"):
        with pytest.raises(NotFound):
            await sign_in.end_session(flows, eve, session_id)
    assert await sign_in.list_sessions(flows, eve) == [eve.session]
    assert await is_signed_in(flows, bob.token)


async def test_a143_person_signs_out_everywhere_else(flows: Authority) -> None:
    here, there = await signed_in(flows), await sign_in_again(flows)
    assert await sign_in.end_other_sessions(flows, here.person) == 1
    assert await is_signed_in(flows, here.token)
    assert not await is_signed_in(flows, there.token)


async def test_session_that_is_used_lives_on_and_ends_by_age_all_the_same(
    authority: TestAuthority, flows: Authority
) -> None:
    bob = await signed_in(flows)
    step = IDLE_LIFETIME - 1
    for _ in range(int(ABSOLUTE_LIFETIME // step)):
        await authority.advance(step)
        assert await is_signed_in(flows, bob.token)
    await authority.advance(ABSOLUTE_LIFETIME % step)
    assert not await is_signed_in(flows, bob.token)


async def test_session_that_is_left_alone_ends(authority: TestAuthority, flows: Authority) -> None:
    bob = await signed_in(flows)
    await authority.advance(IDLE_LIFETIME)
    assert not await is_signed_in(flows, bob.token)


async def test_use_is_written_down_once_a_minute(authority: TestAuthority, flows: Authority) -> None:
    bob = await signed_in(flows)
    authority.store.calls.clear()
    await authority.advance(59)
    assert await is_signed_in(flows, bob.token)
    assert "commit" not in authority.asked()
    await authority.advance(1)
    assert await is_signed_in(flows, bob.token)
    assert authority.asked().count("commit") == 1


@pytest.mark.parametrize("token", ["", "x", "x" * 44, "ü" * 43, "' OR 1=1"])
async def test_text_that_is_no_session_costs_no_look(
    authority: TestAuthority, flows: Authority, token: str
) -> None:
    authority.store.calls.clear()
    assert not await is_signed_in(flows, token)
    assert authority.asked() == []


async def test_one_session_too_many_ends_the_oldest(authority: TestAuthority, flows: Authority) -> None:
    first = await signed_in(flows)
    await authority.advance(1)
    others = [await sign_in_again(flows) for _ in range(MAX_SESSIONS)]
    assert not await is_signed_in(flows, first.token)
    assert all([await is_signed_in(flows, other.token) for other in others])


async def test_people_who_sign_in_at_the_same_time_all_do(flows: Authority) -> None:
    await a_person(flows)
    several = await asyncio.gather(*(sign_in_again(flows) for _ in range(5)))
    assert len({one.token for one in several}) == 5
    assert all([await is_signed_in(flows, one.token) for one in several])


async def test_sign_in_loses_to_a_password_change_beside_it(
    authority: TestAuthority, flows: Authority
) -> None:
    bob = await a_person(flows)

    async def change_beside(_commit: Commit) -> None:
        authority.store.before.clear()
        newest = await authority.store.inner.account(bob.account.account_id)
        assert newest is not None
        changed = replace(newest, password_hash="other", version=newest.version + 1)
        await authority.store.inner.commit(Commit(rows=(changed,)))

    authority.store.before["commit"] = change_beside
    with pytest.raises(SignInRefused):
        await sign_in_again(flows)


async def test_hash_under_an_old_master_key_is_made_anew(authority: TestAuthority, flows: Authority) -> None:
    bob = await a_person(flows)
    ring = KeyRing({1: flows.keyring._keys[1], 2: b"2" * 32}, minting=2)
    hasher = flows.passwords._hasher
    rotated = replace(flows, passwords=Passwords(ring, issuer=flows.issuer, instance="test", hasher=hasher))
    await sign_in_again(rotated)
    account = await authority.store.account(bob.account.account_id)
    assert account.key_number == 2
    await sign_in_again(rotated)


async def test_sign_ins_are_audited_and_the_cookie_is_nowhere(
    authority: TestAuthority, flows: Authority
) -> None:
    bob = await signed_in(flows)
    assert (await authority.actions())[-3:] == [
        "account.create",
        "account.choose_password",
        "account.sign_in",
    ]
    assert bob.token not in repr(bob)
    stored = b"".join(path.read_bytes() for path in authority.settings.data_dir.glob("rpz-auth.db*"))
    assert bob.token.encode() not in stored
    assert bob.person.session.session_id.encode() in stored


async def test_a106_a109_peer_that_floods_with_passwords_leaves_the_others_their_turn(
    authority: TestAuthority, flows: Authority
) -> None:
    await signed_in(flows)
    flood = [
        sign_in_again(flows, f"nobody-{number}", password="wrong", browser=ELSEWHERE) for number in range(40)
    ]
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    kinds = Counter(type(outcome).__name__ for outcome in outcomes)
    assert kinds == {"SignInRefused": SLOW_AT_ONCE, "RateLimited": 40 - SLOW_AT_ONCE}
    # Its turns come back, whatever became of them; and nobody else's were taken.
    cancelled = asyncio.create_task(sign_in_again(flows, password="wrong", browser=ELSEWHERE))
    await asyncio.sleep(0)
    await sign_in_again(flows, browser=LOCAL)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await sign_in_again(flows, browser=ELSEWHERE)
    assert authority.authority.limiter.slow == {}
