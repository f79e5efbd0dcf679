from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rpz_auth.address import parse_peer
from rpz_auth.caller import Caller, How, Verdict
from rpz_auth.errors import Refusal
from rpz_auth_server.domain.account import Role
from rpz_auth_server.domain.app import AppKind
from rpz_auth_server.domain.refusal import (
    Conflict,
    NotFound,
    RateLimited,
    RequestInvalid,
    RightsInsufficient,
    ScopeInvalid,
)
from rpz_auth_server.flows import accounts, apps, passwords, sign_in
from rpz_auth_server.flows.accounts import SETUP_LIFETIME, AccountFields
from rpz_auth_server.flows.apps import AppFields
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.person import Person
from rpz_auth_server.flows.sign_in import Browser, SignedIn, SignInRefused
from rpz_auth_server.storage.store import Commit
from server.authority import ORDERS, FakeTime, TestAuthority, running_authority
from server.people import (
    ELSEWHERE,
    LOCAL,
    PASSWORD,
    a_person,
    an_administrator,
    hurried,
    sign_in_again,
    signed_in,
)


@pytest.fixture
def flows(authority: TestAuthority) -> Authority:
    return hurried(authority.authority)


async def choose(flows: Authority, invited: accounts.Invited, **fields: Any) -> SignedIn:
    given = {
        "account_id": invited.account.account_id,
        "code": invited.code,
        "password": PASSWORD,
        "browser": ELSEWHERE,
    }
    return await passwords.choose_password(flows, **{**given, **fields})


async def test_invited_person_chooses_a_password_once(flows: Authority) -> None:
    root = await an_administrator(flows)
    invited = await accounts.create_account(flows, root, "Bob", AccountFields(display_name="Bob B."))
    assert invited.code not in repr(invited)
    with pytest.raises(SignInRefused):
        await sign_in_again(flows, "bob", password=invited.code)
    with pytest.raises(RequestInvalid):
        await choose(flows, invited, password="short")
    bob = (await choose(flows, invited)).person
    assert (bob.account.user_name, bob.account.display_name) == ("bob", "Bob B.")
    with pytest.raises(SignInRefused):
        await choose(flows, invited, password="another good password")
    await sign_in_again(flows)


@pytest.mark.parametrize(
    "fields", [{"code": "x"}, {"code": ""}, {"account_id": "unknown"}, {"code": "\ud800"}]
)
async def test_wrong_code_is_refused(flows: Authority, fields: dict[str, str]) -> None:
    invited = await accounts.make_account(flows, "bob", AccountFields(), actor="test")
    with pytest.raises(SignInRefused):
        await choose(flows, invited, **fields)


async def test_code_expires(authority: TestAuthority, flows: Authority) -> None:
    invited = await accounts.make_account(flows, "bob", AccountFields(), actor="test")
    await authority.advance(SETUP_LIFETIME)
    with pytest.raises(SignInRefused):
        await choose(flows, invited)


async def test_first_persons_code_is_good_on_this_machine_only(flows: Authority) -> None:
    invited = await accounts.make_account(flows, "root", AccountFields(), actor="test", local=True)
    with pytest.raises(SignInRefused):
        await choose(flows, invited, browser=ELSEWHERE)
    await choose(flows, invited, browser=LOCAL)


async def test_code_is_used_once_in_a_race(flows: Authority) -> None:
    invited = await accounts.make_account(flows, "bob", AccountFields(), actor="test")
    tries = [choose(flows, invited, password=f"a good password {number}") for number in range(4)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(SignedIn) == 1
    assert [type(outcome) for outcome in outcomes].count(SignInRefused) == 3


async def test_a143_changed_password_signs_every_other_browser_out(flows: Authority) -> None:
    here, there = await signed_in(flows), await sign_in_again(flows)
    newest = await sign_in.authenticate(flows, here.token, LOCAL.peer)
    with pytest.raises(SignInRefused):
        await passwords.change_password(flows, newest, current="wrong", chosen="another good password")
    with pytest.raises(RequestInvalid):
        await passwords.change_password(flows, newest, current=PASSWORD, chosen="short")
    await passwords.change_password(flows, newest, current=PASSWORD, chosen="another good password")
    await sign_in.authenticate(flows, here.token, LOCAL.peer)
    with pytest.raises(SignInRefused):
        await sign_in.authenticate(flows, there.token, LOCAL.peer)
    with pytest.raises(SignInRefused):
        await sign_in_again(flows)
    await sign_in_again(flows, password="another good password")


async def test_new_code_does_not_end_the_password_and_a_chosen_one_ends_every_session(
    flows: Authority,
) -> None:
    root, bob = await an_administrator(flows), await signed_in(flows)
    invited = await accounts.invite_again(flows, root, bob.person.account.account_id)
    await sign_in.authenticate(flows, bob.token, LOCAL.peer)
    await choose(flows, invited, password="another good password")
    with pytest.raises(SignInRefused):
        await sign_in.authenticate(flows, bob.token, LOCAL.peer)


async def test_r066_disabled_person_is_out_everywhere_with_all_that_was_allowed(
    authority: TestAuthority, flows: Authority
) -> None:
    root, bob = await an_administrator(flows), await signed_in(flows)
    client = await authority.create_client()
    tokens = await authority.sign_in(client, subject=bob.person.subject)
    invited = await accounts.invite_again(flows, root, bob.person.account.account_id)
    await accounts.disable_account(flows, root, bob.person.account.account_id)
    assert not await authority.is_alive(tokens.access_token)
    with pytest.raises(SignInRefused):
        await sign_in.authenticate(flows, bob.token, LOCAL.peer)
    for attempt in (sign_in_again(flows), choose(flows, invited)):
        with pytest.raises(SignInRefused):
            await attempt
    await accounts.enable_account(flows, root, bob.person.account.account_id)
    await sign_in_again(flows)
    assert not await authority.is_alive(tokens.access_token)


async def test_code_of_a_disabled_person_is_good_once_it_is_let_in_again(flows: Authority) -> None:
    root, bob = await an_administrator(flows), await a_person(flows)
    await accounts.disable_account(flows, root, bob.account.account_id)
    invited = await accounts.invite_again(flows, root, bob.account.account_id)
    with pytest.raises(SignInRefused):
        await choose(flows, invited)
    assert await flows.store.account(bob.account.account_id) == invited.account
    await accounts.enable_account(flows, root, bob.account.account_id)
    await choose(flows, invited)


async def test_person_who_is_disabled_meanwhile_changes_no_password(flows: Authority) -> None:
    root, bob = await an_administrator(flows), await a_person(flows)
    disabled = await accounts.disable_account(flows, root, bob.account.account_id)
    with pytest.raises(Conflict):
        await passwords.change_password(flows, bob, current=PASSWORD, chosen="another good password")
    assert await flows.store.account(bob.account.account_id) == disabled


async def test_only_administrators_see_and_change_accounts(flows: Authority) -> None:
    bob, eve = await a_person(flows), await a_person(flows, "eve")
    target = eve.account.account_id
    for attempt in (
        accounts.create_account(flows, bob, "new", AccountFields()),
        accounts.list_accounts(flows, bob, after="", limit=10),
        accounts.get_account(flows, bob, target),
        accounts.update_account(flows, bob, bob.account.account_id, AccountFields(scopes=["a"])),
        accounts.update_account(flows, bob, target, AccountFields(role=Role.ADMINISTRATOR)),
        accounts.invite_again(flows, bob, target),
        accounts.disable_account(flows, bob, target),
        accounts.enable_account(flows, bob, target),
    ):
        with pytest.raises(RightsInsufficient):
            await attempt
    assert (await sign_in_again(flows, "eve")).person.account.role is Role.MEMBER


async def test_app_that_is_no_administrator_creates_no_account(flows: Authority) -> None:
    verdict = Verdict(
        how=How.API_TOKEN,
        app_id="app",
        subject="app:app",
        scopes=frozenset({"rpz.apps"}),
        resources=frozenset({flows.issuer}),
        token_id="",
    )
    with pytest.raises(RightsInsufficient):
        await accounts.create_account(flows, Caller(verdict, LOCAL.peer), "eve", AccountFields())
    assert await flows.store.accounts(after="", limit=1) == []


async def test_administrator_cannot_take_its_own_rights_away(flows: Authority) -> None:
    root = await an_administrator(flows)
    with pytest.raises(RightsInsufficient):
        await accounts.disable_account(flows, root, root.account.account_id)
    with pytest.raises(RightsInsufficient):
        await accounts.update_account(flows, root, root.account.account_id, AccountFields(role=Role.MEMBER))


@pytest.fixture
async def two(authority: TestAuthority, flows: Authority) -> tuple[Person, Person]:
    """Two administrators, whose next two acts have both read what there is when the first one is written."""
    both = await an_administrator(flows), await a_person(flows, "eve", role=Role.ADMINISTRATOR)
    waiting = asyncio.Barrier(2)

    async def meet(_commit: Commit) -> None:
        if waiting.n_waiting or not met:
            met.append(True)
            await waiting.wait()

    met: list[bool] = []
    authority.store.before["commit"] = meet
    return both


async def demote(flows: Authority, maker: Person, whom: Person) -> None:
    fields = AccountFields(role=Role.MEMBER)
    await accounts.update_account(flows, maker, whom.account.account_id, fields)


async def disable(flows: Authority, maker: Person, whom: Person) -> None:
    await accounts.disable_account(flows, maker, whom.account.account_id)


@pytest.mark.parametrize("first", [demote, disable])
@pytest.mark.parametrize("second", [demote, disable])
async def test_a128_of_two_administrators_who_act_on_each_other_at_once_one_remains(
    flows: Authority, two: tuple[Person, Person], first: Any, second: Any
) -> None:
    root, eve = two
    outcomes = await asyncio.gather(first(flows, root, eve), second(flows, eve, root), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "RightsInsufficient"]
    remaining = [
        account
        for account in await flows.store.accounts(after="", limit=10)
        if account.role is Role.ADMINISTRATOR and not account.disabled
    ]
    assert len(remaining) == 1
    await sign_in_again(flows, remaining[0].user_name)


async def test_a128_administrator_that_was_demoted_meanwhile_changes_nothing(
    authority: TestAuthority, flows: Authority
) -> None:
    root, eve = await an_administrator(flows), await a_person(flows, "eve", role=Role.ADMINISTRATOR)
    own = AccountFields(role=Role.ADMINISTRATOR, display_name="Eve again")

    async def demoted_first(_commit: Commit) -> None:
        authority.store.before.clear()
        await demote(flows, root, eve)

    for attempt in (
        accounts.update_account(flows, eve, eve.account.account_id, own),
        accounts.create_account(flows, eve, "new", AccountFields(role=Role.ADMINISTRATOR)),
        accounts.invite_again(flows, eve, root.account.account_id),
    ):
        given = AccountFields(role=Role.ADMINISTRATOR)
        await accounts.update_account(flows, root, eve.account.account_id, given)
        authority.store.before["commit"] = demoted_first
        with pytest.raises(RightsInsufficient):
            await attempt
    found = await flows.store.account(eve.account.account_id)
    assert found is not None
    assert (found.role, found.display_name) == (Role.MEMBER, "eve")
    assert await flows.store.account_of_user("new") is None


async def test_a143_password_and_sessions_change_in_one_commit(
    authority: TestAuthority, flows: Authority
) -> None:
    here = await signed_in(flows)
    await sign_in_again(flows)
    root = await an_administrator(flows)
    bob = here.person.account.account_id
    acts = (
        passwords.change_password(flows, here.person, current=PASSWORD, chosen="another good password"),
        accounts.disable_account(flows, root, bob),
    )
    for act, left in zip(acts, (1, 0), strict=True):
        before = authority.store.calls.count("commit")
        await act
        assert authority.store.calls.count("commit") == before + 1
        assert len(await flows.store.sessions(bob)) == left


async def test_a143_who_signs_in_while_the_password_changes_is_signed_out_or_refused(
    authority: TestAuthority, flows: Authority
) -> None:
    here = await signed_in(flows)
    slipped: list[SignedIn] = []

    async def sign_in_first(_commit: Commit) -> None:
        authority.store.before.clear()
        slipped.append(await sign_in_again(flows))

    authority.store.before["commit"] = sign_in_first
    await passwords.change_password(flows, here.person, current=PASSWORD, chosen="another good password")
    with pytest.raises(SignInRefused):
        await sign_in.authenticate(flows, slipped[0].token, LOCAL.peer)
    with pytest.raises(Conflict):  # of somebody who has proved to know the password before
        await passwords.change_password(flows, here.person, current=PASSWORD, chosen="a third password")


async def test_missing_account_is_not_found(flows: Authority) -> None:
    root = await an_administrator(flows)
    for attempt in (
        accounts.get_account(flows, root, "unknown"),
        accounts.update_account(flows, root, "unknown", AccountFields(display_name="x")),
        accounts.disable_account(flows, root, "unknown"),
        accounts.invite_locally(flows, "unknown"),
    ):
        with pytest.raises(NotFound):
            await attempt


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"scopes": ["rpz.admin"]}, ScopeInvalid),
        ({"scopes": ["a b"]}, ScopeInvalid),
        ({"resources": ["no uri"]}, RequestInvalid),
        ({"resources": [f"https://{number}.example" for number in range(101)]}, RequestInvalid),
        ({"display_name": "x" * 129}, RequestInvalid),
        ({"display_name": "\u202e"}, RequestInvalid),
    ],
)
async def test_field_outside_its_form_is_refused(
    flows: Authority, fields: dict[str, Any], refusal: type[Refusal]
) -> None:
    root = await an_administrator(flows)
    with pytest.raises(refusal):
        await accounts.create_account(flows, root, "bob", AccountFields(**fields))


async def test_user_name_is_given_once(flows: Authority) -> None:
    root = await an_administrator(flows)
    with pytest.raises(RequestInvalid, match="taken"):
        await accounts.create_account(flows, root, "ROOT", AccountFields())


async def test_accounts_are_listed_by_name_a_page_at_a_time(flows: Authority) -> None:
    root, bob = await an_administrator(flows), await a_person(flows)
    first = await accounts.list_accounts(flows, root, after="", limit=1)
    rest = await accounts.list_accounts(flows, root, after="bob", limit=10)
    assert [*first, *rest] == [bob.account, root.account]


# What people may do with Apps


async def test_member_hands_on_what_an_administrator_entered_and_no_more(flows: Authority) -> None:
    bob = await a_person(flows, scopes=["orders.read"], resources=[ORDERS])
    fields = AppFields(display_name="shop", scopes=["orders.read"], resources=[ORDERS])
    app = await apps.create_app(flows, bob, AppKind.BACKEND, fields)
    assert app.owner == bob.subject
    for more in (
        {"scopes": ["orders.write"]},
        {"scopes": ["rpz.apps"]},
        {"resources": ["https://stock.example"]},
        {"owner": "user:eve"},
    ):
        with pytest.raises(RightsInsufficient):
            await apps.create_app(flows, bob, AppKind.BACKEND, replace(fields, **more))


async def test_r144_person_sees_its_own_apps_and_an_administrator_all(flows: Authority) -> None:
    root, bob, eve = await an_administrator(flows), await a_person(flows), await a_person(flows, "eve")
    app = await apps.create_app(flows, bob, AppKind.FRONTEND, AppFields(display_name="shop"))
    assert await apps.list_apps(flows, bob, after="", limit=10) == [app]
    assert await apps.list_apps(flows, eve, after="", limit=10) == []
    assert app in await apps.list_apps(flows, root, after="", limit=10)
    for attempt in (apps.get_app(flows, eve, app.app_id), apps.lock_app(flows, eve, app.app_id)):
        with pytest.raises(NotFound):
            await attempt


async def test_account_that_is_disabled_keeps_its_apps_for_the_administrator(flows: Authority) -> None:
    root, bob = await an_administrator(flows), await a_person(flows)
    app = await apps.create_app(flows, bob, AppKind.FRONTEND, AppFields(display_name="shop"))
    await accounts.disable_account(flows, root, bob.account.account_id)
    given = await apps.update_app(
        flows, root, app.app_id, AppFields(owner=root.subject), allow_any_peer=False
    )
    assert given.owner == root.subject


async def test_r131_guesses_at_a_code_are_limited_by_account_and_peer(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "a", time=FakeTime(), failure_limit=2) as authority:
        flows = hurried(authority.authority)
        root = await an_administrator(flows)
        invited = await accounts.create_account(flows, root, "bob", AccountFields())
        for _ in range(2):
            with pytest.raises(SignInRefused):
                await choose(flows, invited, code="A" * 43)
        with pytest.raises(RateLimited):
            await choose(flows, invited, code="A" * 43)
        with pytest.raises(RateLimited):  # what is right is a guess like any other
            await choose(flows, invited)
        elsewhere = Browser(peer=parse_peer("ipv4:192.0.2.77:1"))
        assert (await choose(flows, invited, browser=elsewhere)).person.account.user_name == "bob"
