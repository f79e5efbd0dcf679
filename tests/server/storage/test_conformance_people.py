"""What every store must do with people; a backend joins in conftest.py."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rpz_auth_server.domain.account import (
    QUESTION_LIFETIME,
    Account,
    Consent,
    ExternalIdentity,
    Role,
    Session,
)
from rpz_auth_server.domain.app import App
from rpz_auth_server.domain.grant import MARGIN
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.storage.store import Commit, Store
from server.storage.build import (
    ACCOUNT_ID,
    APP_ID,
    NOW,
    a_consent,
    a_grant,
    a_session,
    an_account,
    an_app,
    an_identity,
    new_id,
)
from support.clock import Clock

if TYPE_CHECKING:
    from server.storage.conftest import Backend

DAY = 86400.0


async def collect_all(store: Store) -> None:
    while await store.collect(limit=2):
        pass


async def exists(store: Store, row: App | Account | Session | Consent | ExternalIdentity) -> bool:
    match row:
        case App():
            return await store.app(row.app_id) == row
        case Account():
            return await store.account(row.account_id) == row
        case Session():
            return await store.session(row.session_id) == row
        case Consent():
            return await store.consent(row.consent_id) == row
        case ExternalIdentity():
            return await store.external_identity(row.identity_id) == row


async def test_people_come_back_as_they_were_written(store: Store) -> None:
    account, session, consent, identity = an_account(), a_session(), a_consent(), an_identity()
    await store.commit(Commit(rows=(session, consent, identity, account, an_app())))
    for row in (account, session, consent, identity):
        assert await exists(store, row)
    assert await store.account_of_user("bob") == account
    changed = replace(
        account,
        version=2,
        display_name="Robert",
        role=Role.ADMINISTRATOR,
        scopes=frozenset[str](),
        password_hash=None,
        key_number=3,
        setup_hash=None,
        setup_expires_at=None,
        setup_local=False,
        disabled=True,
        signed_in_at=NOW + 9,
    )
    later = replace(
        session, version=2, peer="10.0.0.1", seen_at=NOW + 5, idle_expires_at=NOW + 99, ended_at=NOW
    )
    wider = replace(consent, version=2, scopes=frozenset({"a"}), expires_at=NOW + 99)
    unlinked = replace(identity, version=2, account_id=None)
    await store.commit(Commit(rows=(changed, later, wider, unlinked)))
    for row in (changed, later, wider, unlinked):
        assert await exists(store, row)


async def test_unknown_people_give_nothing(store: Store) -> None:
    unknown = new_id()
    assert await store.account(unknown) is None
    assert await store.account_of_user(unknown) is None
    assert await store.session(unknown) is None
    assert await store.consent(unknown) is None
    assert await store.external_identity(unknown) is None
    assert await store.accounts(after="", limit=10) == []
    assert await store.sessions(unknown) == []
    assert await store.consents(unknown, after="", limit=10) == []
    assert await store.external_identities(unknown) == []


async def test_a128_commit_counts_on_rows_that_are_as_they_were(store: Store) -> None:
    bob, eve = an_account(), an_account(account_id=new_id(), user_name="eve")
    await store.commit(Commit(rows=(bob, eve)))
    later = replace(bob, version=2, display_name="Robert")
    await store.commit(Commit(rows=(later,), unchanged=(eve,)))
    for counted_on in (bob, replace(bob, version=3), an_account(account_id=new_id())):
        with pytest.raises(Conflict):
            await store.commit(Commit(rows=(replace(eve, version=2),), unchanged=(counted_on,)))
    assert [await exists(store, row) for row in (later, eve)] == [True, True]


async def test_a128_of_two_that_count_on_each_other_one_is_written(store: Store) -> None:
    bob, eve = an_account(), an_account(account_id=new_id(), user_name="eve")
    await store.commit(Commit(rows=(bob, eve)))
    outcomes = await asyncio.gather(
        store.commit(Commit(rows=(replace(bob, version=2),), unchanged=(eve,))),
        store.commit(Commit(rows=(replace(eve, version=2),), unchanged=(bob,))),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "NoneType"]


async def test_user_name_is_given_once(store: Store) -> None:
    await store.commit(Commit(rows=(an_account(),)))
    with pytest.raises(Conflict):
        await store.commit(Commit(rows=(an_account(account_id=new_id()),)))


async def test_session_and_identity_of_an_account_that_is_not_there_conflict(store: Store) -> None:
    for row in (a_session(), an_identity()):
        with pytest.raises(Conflict):
            await store.commit(Commit(rows=(row,)))


async def test_session_never_moves_to_another_account(store: Store) -> None:
    session, other = a_session(), an_account(account_id=new_id(), user_name="eve")
    await store.commit(Commit(rows=(an_account(), other, session)))
    with pytest.raises(Conflict):
        await store.commit(Commit(rows=(replace(session, version=2, account_id=other.account_id),)))


async def test_accounts_are_listed_by_user_name(store: Store) -> None:
    people = [an_account(account_id=new_id(), user_name=name) for name in ("carol", "alice", "bob")]
    await store.commit(Commit(rows=tuple(people)))
    assert [account.user_name for account in await store.accounts(after="", limit=2)] == ["alice", "bob"]
    assert [account.user_name for account in await store.accounts(after="bob", limit=2)] == ["carol"]


async def test_sessions_are_those_in_which_somebody_is_signed_in_the_oldest_first(store: Store) -> None:
    newer = a_session(created_at=NOW + 1)
    older = a_session()
    gone = (
        a_session(ended_at=NOW),
        a_session(idle_expires_at=NOW),
        a_session(expires_at=NOW),
        a_session(account_id="other"),
    )
    other = an_account(account_id="other", user_name="eve")
    await store.commit(Commit(rows=(an_account(), other, newer, older, *gone)))
    assert await store.sessions(ACCOUNT_ID) == [older, newer]


async def test_consents_of_a_user_are_those_that_are_remembered(store: Store) -> None:
    apps = [an_app(app_id=new_id()) for _ in range(4)]
    consents = [
        a_consent(consent_id=f"{number}", app_id=app.app_id, expires_at=NOW + number)
        for number, app in enumerate(apps)
    ]
    foreign = a_consent(consent_id="9", subject="user:eve", app_id=apps[0].app_id)
    await store.commit(Commit(rows=(*apps, *consents, foreign)))
    assert await store.consents("user:bob", after="", limit=2) == consents[1:3]
    assert await store.consents("user:bob", after="2", limit=2) == consents[3:]


async def test_identities_of_an_account_are_those_that_are_linked(store: Store) -> None:
    kept, other = an_identity(), an_identity(identity_id=new_id(), account_id=None)
    await store.commit(Commit(rows=(an_account(), kept, other)))
    assert await store.external_identities(ACCOUNT_ID) == [kept]


async def test_grants_of_a_user_to_one_app(store: Store) -> None:
    other = an_app(app_id=new_id())
    mine, elsewhere = a_grant(), a_grant(app_id=other.app_id)
    await store.commit(Commit(rows=(an_app(), other, mine, elsewhere)))
    assert await store.grants_of_subject("acme:bob", app_id=APP_ID, limit=10) == [mine]


async def test_ended_sessions_and_forgotten_consents_are_collected(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    kept = (a_session(), a_consent(expires_at=NOW + 11 - QUESTION_LIFETIME))
    gone = (
        a_session(ended_at=NOW),
        a_session(idle_expires_at=NOW + 10),
        a_session(expires_at=NOW + 10),
        a_consent(consent_id=new_id(), expires_at=NOW + 10 - QUESTION_LIFETIME),
    )
    await store.commit(Commit(rows=(an_app(), an_account(), *kept, *gone)))
    wall.time += 10
    await collect_all(store)
    assert [await exists(store, row) for row in kept] == [True, True]
    assert [await exists(store, row) for row in gone] == [False] * 4


async def test_consents_go_with_their_deleted_app(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    app, consent = an_app(deleted=True, updated_at=NOW), a_consent(expires_at=NOW + 400 * DAY)
    await store.commit(Commit(rows=(app, consent)))
    wall.time += MARGIN + 1
    await collect_all(store)
    assert [await exists(store, row) for row in (app, consent)] == [False, False]
