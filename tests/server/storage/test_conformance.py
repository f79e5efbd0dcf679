"""What every store must do; a backend joins in conftest.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rpz_auth.errors import BackendUnavailable
from rpz_auth.view import AppState, Revocation, SigningKeys
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.domain.creation import KEPT, Creation
from rpz_auth_server.domain.credential import ApiToken, ClientSecret, id_of
from rpz_auth_server.domain.event import BEGINNING, Audit, Cursor, StoredSnapshot
from rpz_auth_server.domain.grant import MARGIN, MAX_ACCESS_TOKEN_LIFETIME, Grant, GrantState
from rpz_auth_server.domain.issuer import Issuer
from rpz_auth_server.domain.key import KeyUse, SealedKey
from rpz_auth_server.domain.limits import Charge, Level, RefusalCount, SharedLevel
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.domain.resolution import Resolution
from rpz_auth_server.domain.use import Use
from rpz_auth_server.storage import limits
from rpz_auth_server.storage.store import Commit, Row, Store
from server.storage.build import (
    APP_ID,
    NOW,
    a_grant,
    a_key,
    a_secret,
    an_account,
    an_api_token,
    an_app,
    find_break,
    new_id,
)
from support.clock import Clock

if TYPE_CHECKING:
    from server.storage.conftest import Backend

DAY = 86400.0


async def outcomes(awaitables: Sequence[Any]) -> list[BaseException | None]:
    results: list[BaseException | None] = await asyncio.gather(*awaitables, return_exceptions=True)
    return results


async def changes_after(store: Store, cursor: Cursor) -> list[Any] | None:
    events = await store.events_after(cursor, limit=1000)
    return None if events is None else [event.change for event in events]


# Rows


async def test_rows_come_back_as_they_were_written(store: Store) -> None:
    plain = an_app(app_id=new_id(), kind=AppKind.FRONTEND, sign_in=None, pkce_exempt=False)
    special = an_app(locked=True, epoch=7, whitelist=("10.0.0.0/8", "san:a.example"))
    secret, token, grant = a_secret(revoked_at=NOW + 1), an_api_token(expires_at=NOW + 9), a_grant()
    key = a_key(retire_at=NOW + 5)
    await store.commit(Commit(rows=(secret, plain, token, grant, key, special)))
    assert await store.app(plain.app_id) == plain
    assert await store.app(special.app_id) == special
    assert await store.client_secret(secret.secret_id) == secret
    assert await store.api_token(token.api_token_id) == token
    assert await store.grant(grant.grant_id) == grant
    assert await store.signing_keys() == [key]


async def test_database_is_of_one_issuer(store: Store) -> None:
    assert await store.issuer() is None
    issuer = Issuer(issuer="https://auth.example")
    await store.commit(Commit(rows=(issuer,)))
    assert await store.issuer() == issuer
    with pytest.raises(Conflict):
        await store.commit(Commit(rows=(Issuer(issuer="https://other.example"), an_app())))
    assert await store.app(APP_ID) is None
    issuer = replace(issuer, version=2, bootstrap_token_id="token")
    await store.commit(Commit(rows=(issuer,)))
    assert await store.issuer() == issuer


async def test_rows_that_are_alive_are_counted_by_the_master_key_that_they_need(store: Store) -> None:
    active = {"state": GrantState.ACTIVE, "idle_expires_at": NOW + DAY, "expires_at": NOW + DAY}
    rows: tuple[Row, ...] = (
        an_app(),
        a_grant(key_number=1),
        a_grant(key_number=2, generation=3, key_since=2, **active),
        a_grant(key_number=2, generation=3, key_since=3, rotated_at=NOW - 599, **active),
        a_grant(key_number=2, generation=3, key_since=3, rotated_at=NOW - 601, **active),
        a_grant(key_number=3, idle_expires_at=NOW),
        a_grant(key_number=3, expires_at=NOW),
        a_grant(key_number=3, **{**active, "state": GrantState.REVOKED}),
        a_secret(key_number=2),
        a_secret(key_number=3, expires_at=NOW),
        a_secret(key_number=3, revoked_at=NOW),
        an_api_token(key_number=1),
        an_api_token(key_number=2, expires_at=NOW + 1),
        an_api_token(key_number=3, expires_at=NOW),
        a_key(key_number=1),
        a_key(key_number=3, published=False),
        an_account(key_number=2),
        an_account(account_id=new_id(), user_name="eve", key_number=3, password_hash=None),
    )
    await store.commit(Commit(rows=rows))
    assert await store.key_usage() == [
        KeyUse(1, "grants", 1),
        KeyUse(2, "grants", 3),
        KeyUse(2, "client_secrets", 1),
        KeyUse(1, "api_tokens", 1),
        KeyUse(2, "api_tokens", 1),
        KeyUse(1, "signing_keys", 1),
        KeyUse(2, "accounts", 1),
        KeyUse(0, "refreshes in grace", 1),
    ]


async def test_newest_audit_record_is_the_end_of_the_chain(store: Store) -> None:
    assert await store.newest_audit_record() is None
    await store.commit(Commit(audit=(Audit(actor="a", action="1"), Audit(actor="a", action="2"))))
    assert await store.newest_audit_record() == (await store.audit_records(after=1, limit=9))[-1]


async def test_unknown_ids_give_nothing(store: Store) -> None:
    unknown = new_id()
    assert await store.app(unknown) is None
    assert await store.client_secret(unknown) is None
    assert await store.api_token(unknown) is None
    assert await store.grant(unknown) is None
    assert await store.client_secrets(unknown) == []
    assert await store.api_tokens(unknown, after="", limit=10) == []
    assert await store.grants_of_subject(unknown, limit=10) == []
    assert await store.grants_of_app(unknown, after="", limit=10) == []
    assert await store.grants_by_subject(unknown, after="", limit=10) == []


async def test_next_version_replaces_the_one_before(store: Store) -> None:
    app, secret, token, grant, key = an_app(), a_secret(), an_api_token(), a_grant(), a_key()
    await store.commit(Commit(rows=(app, secret, token, grant, key)))
    app = replace(app, version=2, display_name="", owner="eve", sign_in=None, deleted=True, whitelist=("a",))
    secret = replace(secret, version=2, revoked_at=NOW + 1)
    token = replace(token, version=2, revoked_at=NOW + 2)
    grant = replace(
        grant,
        version=2,
        state=GrantState.ACTIVE,
        generation=1,
        key_number=2,
        key_since=1,
        rotated_at=NOW + 3,
        peer="ipv4:10.0.0.2:1",
        repeats=1,
        access_expires_at=NOW + 7203,
        idle_expires_at=NOW + DAY,
        expires_at=NOW + 9 * DAY,
    )
    key = replace(key, version=2, retire_at=NOW + 4)
    await store.commit(Commit(rows=(app, secret, token, grant, key)))
    assert await store.app(APP_ID) == app
    assert await store.client_secret(secret.secret_id) == secret
    assert await store.api_token(token.api_token_id) == token
    assert await store.grant(grant.grant_id) == grant
    assert await store.signing_keys() == [key]


@pytest.mark.parametrize("version", [1, 2, 4, 5], ids=["insert", "stale", "ahead", "far-ahead"])
async def test_commit_of_another_version_conflicts_and_writes_nothing(store: Store, version: int) -> None:
    grant = a_grant()
    await store.commit(Commit(rows=(an_app(), grant)))
    grant = replace(grant, version=2)
    await store.commit(Commit(rows=(grant,)))
    other = a_grant()
    with pytest.raises(Conflict):
        await store.commit(
            Commit(
                rows=(other, replace(grant, version=version, generation=9)),
                events=(Revocation("x", NOW + 100),),
                audit=(Audit(actor="a", action="b"),),
            )
        )
    assert await store.grant(grant.grant_id) == grant
    assert await store.grant(other.grant_id) is None
    assert await store.cursor() == BEGINNING
    assert await store.audit_records(after=0, limit=10) == []


async def test_row_that_is_not_there_cannot_be_replaced(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.commit(Commit(rows=(an_app(version=2),)))
    assert await store.app(APP_ID) is None


async def test_credential_of_an_app_that_is_not_there_conflicts(store: Store) -> None:
    for row in (a_secret(), an_api_token(), a_grant()):
        with pytest.raises(Conflict):
            await store.commit(Commit(rows=(row,)))


@pytest.mark.parametrize("change", [{"app_id": "other"}, {"subject": "acme:eve"}])
async def test_grant_never_moves_to_another_app_or_user(store: Store, change: dict[str, Any]) -> None:
    grant = a_grant()
    await store.commit(Commit(rows=(an_app(), an_app(app_id="other"), grant)))
    with pytest.raises(Conflict):
        await store.commit(Commit(rows=(replace(grant, version=2, **change),)))
    assert await store.grant(grant.grant_id) == grant


async def test_apps_are_listed_in_order_without_deleted_ones(store: Store) -> None:
    mine = [an_app(app_id=f"a{number}", owner="alice") for number in range(4)]
    others = [an_app(app_id=f"a{number}5", owner="bob") for number in range(2)]
    gone = an_app(app_id="a15x", deleted=True)
    await store.commit(Commit(rows=(*reversed(mine), *others, gone)))
    assert await store.apps(owner="alice", after="", limit=10) == mine
    assert await store.apps(owner="alice", after="a1", limit=1) == [mine[2]]
    assert await store.apps(owner="nobody", after="", limit=10) == []
    everyone = [mine[0], others[0], mine[1], others[1], mine[2], mine[3]]
    assert await store.apps(owner=None, after="", limit=10) == everyone
    assert await store.apps(owner=None, after="a05", limit=2) == everyone[2:4]


async def test_apps_are_found_by_kind_and_part_of_their_name(store: Store) -> None:
    apps = [
        an_app(app_id="a1", display_name="100% Stra\u00dfe"),
        an_app(app_id="a2", display_name="100_STRASSE\\", kind=AppKind.DEVICE),
        an_app(app_id="a3", display_name="\u212bngstr\u00f6m", owner="bob"),
    ]
    await store.commit(Commit(rows=tuple(apps)))
    expected = {
        "strasse": apps[:2],
        "STRA\u00dfE": apps[:2],
        "100%": apps[:1],
        "_": apps[1:2],
        "\\": apps[1:2],
        "\u00e5ngstro\u0308m": apps[2:],
        "'": [],
    }
    for part, found in expected.items():
        assert await store.apps(owner=None, name_part=part, after="", limit=9) == found, part
    assert await store.apps(owner=None, kind=AppKind.DEVICE, after="", limit=9) == apps[1:2]
    both = store.apps(owner="alice", kind=AppKind.BACKEND, name_part="100", after="", limit=9)
    assert await both == apps[:1]
    assert await store.apps(owner=None, name_part="100", after="a1", limit=9) == apps[1:2]
    await store.commit(Commit(rows=(replace(apps[0], display_name="new", version=2),)))
    assert await store.apps(owner=None, name_part="100%", after="", limit=9) == []
    assert [app.app_id for app in await store.apps(owner=None, name_part="NEW", after="", limit=9)] == ["a1"]


async def test_credentials_are_listed_by_app_with_ended_ones(store: Store) -> None:
    secrets = [a_secret(created_at=NOW - age, revoked_at=NOW) for age in (3, 2, 1)]
    tokens = [an_api_token(api_token_id=f"t{number}", revoked_at=NOW) for number in range(3)]
    other = an_app(app_id="other")
    foreign = (other, a_secret(app_id="other"), an_api_token(app_id="other"))
    await store.commit(Commit(rows=(an_app(), *reversed(secrets), *reversed(tokens), *foreign)))
    assert await store.client_secrets(APP_ID) == secrets
    assert await store.api_tokens(APP_ID, after="", limit=10) == tokens
    assert await store.api_tokens(APP_ID, after="t0", limit=1) == [tokens[1]]


async def test_grants_of_a_user_are_those_that_may_still_be_used(store: Store) -> None:
    live = a_grant(state=GrantState.ACTIVE, idle_expires_at=NOW + 2, expires_at=NOW + 3)
    code = a_grant(idle_expires_at=NOW + 60, expires_at=NOW + 60)
    dead = (
        a_grant(state=GrantState.REVOKED, idle_expires_at=NOW + 60, expires_at=NOW + 60),
        a_grant(state=GrantState.ACTIVE, idle_expires_at=NOW, expires_at=NOW + 60),
        a_grant(state=GrantState.ACTIVE, idle_expires_at=NOW + 60, expires_at=NOW),
        a_grant(subject="acme:bob2"),
    )
    await store.commit(Commit(rows=(an_app(), live, code, *dead)))
    found = await store.grants_of_subject("acme:bob", limit=10)
    assert {grant.grant_id: grant for grant in found} == {live.grant_id: live, code.grant_id: code}
    assert len(await store.grants_of_subject("acme:bob", limit=1)) == 1


async def test_grants_are_listed_by_app_and_by_user_in_order_whatever_their_state(store: Store) -> None:
    other = an_app(app_id=new_id())
    mine = [
        a_grant(state=state, idle_expires_at=NOW + idle)
        for state in (GrantState.PENDING, GrantState.ACTIVE, GrantState.REVOKED)
        for idle in (-1, 1)
    ]
    elsewhere, of_another = a_grant(app_id=other.app_id), a_grant(subject="acme:bob2")
    await store.commit(Commit(rows=(an_app(), other, *mine, elsewhere, of_another)))

    def in_order(*grants: Grant) -> list[Grant]:
        return sorted(grants, key=lambda grant: grant.grant_id)

    of_app, by_subject = in_order(*mine, of_another), in_order(*mine, elsewhere)
    assert await store.grants_of_app(APP_ID, after="", limit=10) == of_app
    assert await store.grants_by_subject("acme:bob", after="", limit=10) == by_subject
    assert await store.grants_of_app(APP_ID, after=of_app[1].grant_id, limit=2) == of_app[2:4]
    assert await store.grants_by_subject("acme:bob", after=by_subject[4].grant_id, limit=9) == by_subject[5:]


async def test_signing_keys_are_listed_the_oldest_first(store: Store) -> None:
    keys = [a_key(created_at=NOW + number) for number in range(3)]
    await store.commit(Commit(rows=tuple(reversed(keys))))
    assert await store.signing_keys() == keys


# Commits


async def test_r030_one_of_many_concurrent_replacements_succeeds(store: Store) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    for _ in range(20):
        grant = a_grant()
        await store.commit(Commit(rows=(grant,)))
        candidates = [replace(grant, version=2, repeats=number) for number in range(64)]
        results = await outcomes([store.commit(Commit(rows=(candidate,))) for candidate in candidates])
        winners = [candidate for candidate, error in zip(candidates, results, strict=True) if error is None]
        assert len(winners) == 1
        assert [type(error) for error in results if error is not None] == [Conflict] * 63
        assert await store.grant(grant.grant_id) == winners[0]


async def test_r030_one_of_many_concurrent_inserts_succeeds(store: Store) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    grant = a_grant()
    results = await outcomes([store.commit(Commit(rows=(grant,))) for _ in range(64)])
    assert sorted(type(error).__name__ for error in results) == ["Conflict"] * 63 + ["NoneType"]


async def test_conflict_harms_none_of_the_commits_beside_it(store: Store) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    taken = a_grant()
    await store.commit(Commit(rows=(taken,)))
    rows = [taken if number % 3 == 0 else a_grant() for number in range(60)]
    others = [a_grant() for _ in rows]  # written before the row that may conflict
    results = await outcomes(
        [
            store.commit(Commit(rows=(other, row), events=(Revocation(row.grant_id, NOW + 100),)))
            for row, other in zip(rows, others, strict=True)
        ]
    )
    fine = [row for row in rows if row is not taken]
    written = [None if row is taken else other for row, other in zip(rows, others, strict=True)]
    assert [await store.grant(other.grant_id) for other in others] == written
    assert [type(error) for error in results] == [Conflict if row is taken else type(None) for row in rows]
    assert [await store.grant(row.grant_id) for row in fine] == fine
    assert await changes_after(store, BEGINNING) == [Revocation(row.grant_id, NOW + 100) for row in fine]


async def test_commit_runs_to_its_end_though_its_caller_is_cancelled(store: Store) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    grants = [a_grant() for _ in range(50)]
    tasks = [asyncio.create_task(store.commit(Commit(rows=(grant,)))) for grant in grants]
    await asyncio.sleep(0)  # every task has begun to wait
    for task in tasks:
        task.cancel()
    assert [type(error) for error in await outcomes(tasks)] == [asyncio.CancelledError] * 50
    await store.heartbeat()  # behind them in the queue
    assert [await store.grant(grant.grant_id) for grant in grants] == grants


async def test_close_finishes_what_was_accepted_then_refuses(backend: Backend) -> None:
    store = await backend.open()
    await store.commit(Commit(rows=(an_app(),)))
    grants = [a_grant() for _ in range(50)]
    tasks = [asyncio.create_task(store.commit(Commit(rows=(grant,)))) for grant in grants]
    await asyncio.sleep(0)
    await store.close()
    assert await outcomes(tasks) == [None] * 50
    for refused in (
        store.commit(Commit()),
        store.heartbeat(),
        store.collect(limit=1),
        store.app(APP_ID),
        store.cursor(),
        store.snapshot(),
        store.events_after(BEGINNING, limit=1),
        store.wait_for_events(BEGINNING),
        store.audit_records(after=0, limit=1),
    ):
        with pytest.raises(BackendUnavailable):
            await refused
    await store.close()
    again = await backend.open()
    assert [await again.grant(grant.grant_id) for grant in grants] == grants


async def test_another_store_on_the_same_database_sees_what_was_committed(backend: Backend) -> None:
    one, other = await backend.open(), await backend.open()
    assert await one.instance() == await other.instance()
    assert len(await one.instance()) == 32
    await one.commit(Commit(rows=(an_app(),)))
    assert await other.app(APP_ID) == an_app()


# Events


async def test_events_come_in_the_order_of_commits(store: Store) -> None:
    changes: list[Any] = [
        Revocation("one", NOW + 9),
        AppState(app_id=APP_ID, version=2, locked=True, deleted=True, epoch=3, whitelist=("10.0.0.0/8",)),
        SigningKeys('{"keys": []}'),
        Revocation("two", NOW + 5),
    ]
    assert await store.cursor() == BEGINNING
    assert await changes_after(store, BEGINNING) == []
    await store.commit(Commit(events=tuple(changes[:2])))
    middle = await store.cursor()
    await store.commit(Commit(events=tuple(changes[2:])))
    assert await changes_after(store, BEGINNING) == changes
    assert await changes_after(store, middle) == changes[2:]
    assert await changes_after(store, await store.cursor()) == []
    events = await store.events_after(BEGINNING, limit=3)
    assert events is not None
    assert [event.change for event in events] == changes[:3]
    assert await changes_after(store, events[-1].cursor) == changes[3:]
    assert Cursor.parse(str(middle)) == middle


async def test_cursor_of_another_database_is_not_known(store: Store) -> None:
    await store.commit(Commit(events=(Revocation("one", NOW + 9),)))
    cursor = await store.cursor()
    assert await changes_after(store, Cursor(cursor.sequence, new_id())) is None
    assert await changes_after(store, Cursor(cursor.sequence + 1, cursor.nonce)) is None
    assert await changes_after(store, Cursor(0, cursor.nonce)) is None


async def test_snapshot_holds_live_revocations_and_apps_that_differ_from_the_default(
    backend: Backend,
) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    plain = an_app(app_id="a")
    special = [
        an_app(app_id="b", locked=True),
        an_app(app_id="c", deleted=True),
        an_app(app_id="d", epoch=1),
        an_app(app_id="e", whitelist=("10.0.0.0/8",)),
    ]
    assert await store.snapshot() == StoredSnapshot(BEGINNING, (), ())
    revocations = (
        Revocation("forgotten", NOW + 5),
        Revocation("kept", NOW + 50),
        Revocation("kept", NOW + 40),
        Revocation("also kept", NOW + 50),
    )
    await store.commit(Commit(rows=(plain, *special), events=revocations))
    wall.time += 5
    assert await store.snapshot() == StoredSnapshot(
        cursor=await store.cursor(),
        revocations=(Revocation("also kept", NOW + 50), Revocation("kept", NOW + 50)),
        apps=tuple(app.state for app in special),
    )


async def test_snapshot_and_its_cursor_are_of_one_moment(backend: Backend) -> None:
    reader, writer = await backend.open(), await backend.open()
    app = an_app()
    await writer.commit(Commit(rows=(app,)))
    seen: list[tuple[int, int]] = []
    done = asyncio.Event()

    async def write() -> None:
        nonlocal app
        for _ in range(60):
            app = replace(app, version=app.version + 1, epoch=app.epoch + 1)
            await writer.commit(Commit(rows=(app,), events=(app.state,)))
        done.set()

    async def read() -> None:
        while not done.is_set():
            snapshot = await reader.snapshot()
            seen.append((snapshot.cursor.sequence, sum(state.epoch for state in snapshot.apps)))

    await asyncio.gather(write(), read())
    assert len(set(seen)) > 2  # snapshots were taken while the writer wrote
    assert [sequence for sequence, _ in seen] == [epoch for _, epoch in seen]


@pytest.mark.parametrize("same_store", [True, False], ids=["same-store", "other-store"])
async def test_a131_waiting_for_events_ends_with_a_commit_of_any_store(
    backend: Backend,
    same_store: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    store = await backend.open()
    writer = store if same_store else await backend.open()
    loop = asyncio.get_running_loop()
    delays = []
    for _ in range(5):
        cursor = await store.cursor()
        waiting = [asyncio.create_task(store.wait_for_events(cursor)) for _ in range(3)]
        await writer.heartbeat()  # a transaction without an event
        assert [task.done() for task in waiting] == [False] * 3
        await writer.commit(Commit(events=(Revocation("x", NOW + 9),)))
        committed = loop.time()
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
        delays.append(loop.time() - committed)
        assert await changes_after(store, cursor) == [Revocation("x", NOW + 9)]
    assert min(delays) < 0.02


async def test_waiting_for_events_ends_at_once_behind_the_stream_and_with_a_foreign_cursor(
    store: Store,
) -> None:
    await asyncio.wait_for(store.wait_for_events(Cursor(9, new_id())), 5)
    await store.commit(Commit(events=(Revocation("x", NOW + 9),)))
    await asyncio.wait_for(store.wait_for_events(BEGINNING), 5)
    cursor = await store.cursor()
    await asyncio.wait_for(store.wait_for_events(Cursor(cursor.sequence, new_id())), 5)
    await asyncio.wait_for(store.wait_for_events(Cursor(cursor.sequence + 1, cursor.nonce)), 5)


async def test_cancelled_waiter_leaves_the_others_waiting(store: Store) -> None:
    one, other = [asyncio.create_task(store.wait_for_events(BEGINNING)) for _ in range(2)]
    await asyncio.sleep(0)
    one.cancel()
    assert [type(error) for error in await outcomes([one])] == [asyncio.CancelledError]
    await store.heartbeat()
    assert not other.done()
    await store.commit(Commit(events=(Revocation("x", NOW + 9),)))
    await asyncio.wait_for(other, 5)


async def test_waiter_is_refused_when_the_store_closes(store: Store) -> None:
    waiting = asyncio.create_task(store.wait_for_events(BEGINNING))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(BackendUnavailable):
        await waiting


# Time


async def test_a130_time_does_not_go_back_with_the_wall_clock(backend: Backend) -> None:
    wall, monotonic = Clock(NOW), Clock(5.0)
    store = await backend.open(wall=wall, monotonic=monotonic)
    assert store.now() == NOW
    wall.time -= 3600
    assert store.now() == NOW
    monotonic.time += 10
    assert store.now() == NOW + 10
    assert await store.heartbeat() == NOW + 10


async def test_a130_time_does_not_go_back_with_a_restart(backend: Backend) -> None:
    store = await backend.open(wall=Clock(NOW))
    assert await store.heartbeat() == NOW
    await store.close()
    monotonic = Clock(100.0)
    store = await backend.open(wall=Clock(NOW - 3600), monotonic=monotonic)
    assert store.now() == NOW
    monotonic.time += 7
    assert store.now() == NOW + 7


async def test_a130_every_commit_fixes_the_time_for_later_starts(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    wall.time += 20
    await store.commit(Commit(rows=(an_app(),)))
    await store.close()
    store = await backend.open(wall=Clock(NOW))
    assert store.now() == NOW + 20


async def test_time_follows_the_store_that_is_ahead(backend: Backend) -> None:
    behind = await backend.open(wall=Clock(NOW))
    ahead = await backend.open(wall=Clock(NOW + 30))
    await ahead.heartbeat()
    assert await behind.heartbeat() == NOW + 30
    assert behind.now() == NOW + 30


# Audit


async def test_audit_records_are_chained_over_all_writers(backend: Backend) -> None:
    wall = Clock(NOW)
    stores = [await backend.open(wall=wall), await backend.open(wall=wall)]
    entries = [
        Audit(actor=f"a{number}", action="app.create", app_id=APP_ID, peer="p", details={"k": "ß", "a": "1"})
        for number in range(40)
    ]
    await asyncio.gather(
        *(stores[number % 2].commit(Commit(audit=(entry,))) for number, entry in enumerate(entries))
    )
    records = await stores[0].audit_records(after=0, limit=100)
    assert sorted(record.audit.actor for record in records) == sorted(entry.actor for entry in entries)
    assert {record.audit.actor: record.audit for record in records} == {e.actor: e for e in entries}
    assert [record.sequence for record in records] == list(range(1, 41))
    assert {record.recorded_at for record in records} == {NOW}
    assert find_break(records) is None
    assert await stores[1].audit_records(after=10, limit=5) == records[10:15]
    assert await stores[1].audit_records_before(10, limit=5) == records[8:3:-1]
    assert await stores[1].audit_records_before(3, limit=5) == records[1::-1]


# Collecting


async def collect_all(store: Store) -> None:
    while await store.collect(limit=2):
        pass


async def exists(store: Store, row: Row) -> bool:
    match row:
        case App():
            return await store.app(row.app_id) == row
        case ClientSecret():
            return await store.client_secret(row.secret_id) == row
        case ApiToken():
            return await store.api_token(row.api_token_id) == row
        case Grant():
            return await store.grant(row.grant_id) == row
        case SealedKey():
            return row in await store.signing_keys()
        case Issuer():
            return await store.issuer() == row
        case _:  # people, in test_conformance_people.py
            raise NotImplementedError


async def test_dead_rows_are_collected_and_live_ones_kept(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    later = NOW + 200 * DAY
    live: tuple[Row, ...] = (
        an_app(),
        a_secret(expires_at=None),
        an_api_token(),
        a_grant(state=GrantState.ACTIVE, idle_expires_at=later + 1, expires_at=later + 9),
        a_grant(state=GrantState.REVOKED, idle_expires_at=later + 1, expires_at=later + 9),
        a_grant(access_expires_at=later - MARGIN + 1),
        a_secret(revoked_at=later - MARGIN - 30 * DAY + 1),
        an_api_token(expires_at=later - MARGIN - 30 * DAY + 1),
        a_key(),
    )
    dead: tuple[Row, ...] = (
        *(a_grant() for _ in range(5)),
        a_grant(access_expires_at=later - MARGIN),
        a_secret(revoked_at=later - MARGIN - 30 * DAY, expires_at=later + 9),
        a_secret(expires_at=later - MARGIN - 30 * DAY),
        an_api_token(revoked_at=NOW),
        an_api_token(expires_at=NOW),
        a_key(retire_at=NOW),
    )
    await store.commit(Commit(rows=(*live, *dead)))
    wall.time = later
    await collect_all(store)

    assert [row for row in live if not await exists(store, row)] == []
    assert [row for row in dead if await exists(store, row)] == []
    assert await store.collect(limit=100) == 0


async def test_renewed_grants_outlive_what_was_known_of_them_at_first(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    codes = [a_grant(access_expires_at=NOW) for _ in range(5)]
    await store.commit(Commit(rows=(an_app(), *codes)))
    # The last renewal before the absolute end: the access token outlives the refresh token.
    renewed = [replace(code, version=2, access_expires_at=NOW + 7000) for code in codes]
    await store.commit(Commit(rows=tuple(renewed)))
    wall.time = NOW + 7000 + MARGIN - 1
    while await store.collect(limit=1):
        pass
    assert [await store.grant(grant.grant_id) for grant in renewed] == renewed
    wall.time += 1
    while await store.collect(limit=1):
        pass
    assert [await store.grant(grant.grant_id) for grant in renewed] == [None] * 5


async def test_collecting_takes_no_more_than_its_limit(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    await store.commit(Commit(rows=(an_app(), *(a_grant() for _ in range(5)))))
    wall.time += 365 * DAY
    assert [await store.collect(limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_deleted_app_goes_with_its_credentials_when_none_can_be_alive(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    far = NOW + 1000 * DAY
    app = an_app(deleted=True, updated_at=NOW)
    rows: tuple[Row, ...] = (
        *(a_grant(idle_expires_at=far, expires_at=far) for _ in range(3)),
        a_secret(expires_at=None),
        an_api_token(),
    )
    kept = an_app(app_id="kept")
    await store.commit(Commit(rows=(app, kept, *rows)))
    wall.time = NOW + MAX_ACCESS_TOKEN_LIFETIME + 60  # with the leeway of verifiers
    assert await store.collect(limit=100) == 0
    assert (await store.snapshot()).apps == (app.state,)
    wall.time = NOW + MARGIN - 1
    assert await store.collect(limit=100) == 0
    wall.time = NOW + MARGIN
    assert await store.collect(limit=2) == 4  # a secret, a token, two grants; the App waits for the last
    assert await store.app(APP_ID) == app
    await collect_all(store)
    assert await store.app(APP_ID) is None
    assert await store.app("kept") == kept
    assert await store.client_secrets(APP_ID) == []
    assert await store.api_tokens(APP_ID, after="", limit=9) == []
    assert await store.grants_of_subject("acme:bob", limit=9) == []


async def test_collected_events_never_leave_a_gap_behind_a_cursor(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    long = Revocation("long", NOW + DAY)
    lock = AppState(app_id=APP_ID, version=2, locked=True)
    cursors = [await store.cursor()]
    for change in (long, lock, long):
        await store.commit(Commit(events=(change,)))
        cursors.append(await store.cursor())
    wall.time += 601
    await collect_all(store)  # the lock is gone, the revocations around it are not
    assert await changes_after(store, cursors[0]) is None
    assert await changes_after(store, cursors[1]) is None  # still there, but what it stands before is not
    assert await changes_after(store, cursors[2]) is None
    assert await changes_after(store, cursors[3]) == []
    assert (await store.snapshot()).revocations == (long,)


async def test_place_in_a_quiet_stream_outlives_every_event(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    await store.commit(Commit(events=(Revocation("a", NOW + 5), Revocation("b", NOW + 5))))
    cursor = await store.cursor()
    wall.time += 100 * DAY
    await collect_all(store)
    assert await store.cursor() == cursor
    assert await changes_after(store, cursor) == []
    assert (await store.snapshot()).revocations == ()
    await store.commit(Commit(events=(Revocation("c", NOW + 5),)))
    assert await changes_after(store, cursor) == [Revocation("c", NOW + 5)]


async def test_audit_chain_holds_from_the_oldest_record_kept(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    for day in range(100):
        wall.time = NOW + day * DAY
        await store.commit(Commit(audit=(Audit(actor=f"day {day}", action="x"),)))
    await collect_all(store)
    records = await store.audit_records(after=0, limit=1000)
    assert [record.audit.actor for record in records] == [f"day {day}" for day in range(10, 100)]
    assert find_break(records) is None
    wall.time += 1000 * DAY
    await collect_all(store)
    await store.commit(Commit(audit=(Audit(actor="late", action="x"),)))
    records = await store.audit_records(after=0, limit=1000)
    assert [record.audit.actor for record in records] == ["day 99", "late"]
    assert find_break(records) is None


async def test_a110_refreshing_adds_no_rows(store: Store) -> None:
    grant = a_grant()
    await store.commit(Commit(rows=(an_app(), grant)))
    for generation in range(1, 30):
        grant = replace(grant, version=grant.version + 1, generation=generation)
        await store.commit(Commit(rows=(grant,)))
    assert await store.grants_of_subject("acme:bob", limit=100) == [grant]


# Counts that processes share


def shared(levels: Sequence[SharedLevel]) -> dict[str, Level]:
    return {item.key: item.level for item in levels}


async def test_levels_add_up_over_processes_and_leak_away(backend: Backend) -> None:
    time = Clock(NOW)
    first, second = await backend.open(wall=time), await backend.open(wall=time)
    assert await first.share_levels([], since=0) == []
    levels = await first.share_levels([Charge("a", 4, 1.0), Charge("b", 1, 0.5)], since=0)
    assert shared(levels) == {"a": Level(4, NOW), "b": Level(1, NOW)}
    time.time += 1
    levels = await second.share_levels([Charge("a", 2, 1.0)], since=NOW + 0.5)
    assert shared(levels) == {"a": Level(5, NOW + 1)}
    time.time += 1.5
    levels = await second.share_levels([Charge("c", 1, 1.0)], since=0)
    assert shared(levels) == {"a": Level(5, NOW + 1), "c": Level(1, NOW + 2.5)}
    time.time += 100
    levels = await first.share_levels([Charge("a", 1, 1.0)], since=0)
    assert shared(levels) == {"a": Level(1, NOW + 102.5)}


async def test_a110_levels_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_LEVELS", 10)
    for number in range(50):
        await store.share_levels([Charge(f"{number}", number + 1, 1.0)], since=0)
    levels = await store.share_levels([], since=0)
    assert set(shared(levels)) == {str(number) for number in range(40, 50)}


async def test_refusals_are_counted_by_app_reason_and_minute(backend: Backend) -> None:
    first, second = await backend.open(), await backend.open()
    await first.commit(Commit(rows=(an_app(),)))
    minute = int(NOW // 60)
    await first.count_refusals(
        [
            RefusalCount(APP_ID, "CLIENT_INVALID", minute, 3),
            RefusalCount("made-up", "CLIENT_INVALID", minute, 5),
        ]
    )
    await second.count_refusals(
        [
            RefusalCount("other", "CLIENT_INVALID", minute, 1),
            RefusalCount(APP_ID, "CLIENT_INVALID", minute, 4),
            RefusalCount(APP_ID, "RATE_LIMITED", minute - 1, 9),
        ]
    )
    newest, middle, oldest = (
        RefusalCount(APP_ID, "CLIENT_INVALID", minute, 7),
        RefusalCount("", "CLIENT_INVALID", minute, 6),
        RefusalCount(APP_ID, "RATE_LIMITED", minute - 1, 9),
    )
    end = (2**62, "", "")
    assert await first.refusals(None, before=end, limit=10) == [newest, middle, oldest]
    assert await first.refusals(APP_ID, before=end, limit=10) == [newest, oldest]
    assert await first.refusals("", before=end, limit=10) == [middle]
    assert await first.refusals(None, before=end, limit=1) == [newest]
    assert await first.refusals(None, before=(minute, APP_ID, "CLIENT_INVALID"), limit=1) == [middle]
    assert await first.refusals(None, before=(minute, "", "CLIENT_INVALID"), limit=5) == [oldest]


async def test_a110_refusals_are_kept_for_days_and_bounded(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Clock(NOW)
    store = await backend.open(wall=time)
    minute = int(NOW // 60)
    await store.count_refusals([RefusalCount("", "R", minute - back, 1) for back in range(20)])
    time.time += limits.REFUSALS_KEPT * 60 - 600
    while await store.collect(limit=3):
        pass
    end = (2**62, "", "")
    kept = await store.refusals(None, before=end, limit=100)
    assert [item.minute for item in kept] == [minute - back for back in range(11)]
    monkeypatch.setattr(limits, "MAX_REFUSALS", 4)
    while await store.collect(limit=3):
        pass
    kept = await store.refusals(None, before=end, limit=100)
    assert [item.minute for item in kept] == [minute - back for back in range(4)]


# Uses, deadlines, creations


def _use(credential_id: str, at: float, place: str) -> Use:
    return Use(credential_id=credential_id, used_at=at, used_from=place)


async def test_last_use_is_kept_beside_the_versions_of_the_row(store: Store) -> None:
    secret, token = a_secret(), an_api_token()
    await store.commit(Commit(rows=(an_app(), secret, token)))
    await store.record_uses(
        [_use(secret.secret_id, NOW + 5, "192.0.2.1"), _use(token.api_token_id, NOW + 6, "unix")]
    )
    await store.record_uses([_use(secret.secret_id, NOW + 4, "192.0.2.2"), _use("nobody", NOW, "")])
    # Who read the row before goes on with its version, and does not take the use away.
    await store.commit(Commit(rows=(replace(secret, version=2, display_name="new"),)))
    used = replace(secret, version=2, display_name="new", last_used_at=NOW + 5, last_used_from="192.0.2.1")
    assert await store.client_secret(secret.secret_id) == used
    assert await store.api_token(token.api_token_id) == replace(
        token, last_used_at=NOW + 6, last_used_from="unix"
    )


async def test_what_expires_is_found_by_its_deadline(store: Store) -> None:
    now = store.now()
    soon: list[Any] = [a_secret(expires_at=now + 10), an_api_token(expires_at=now + 20)]
    others: list[Any] = [
        *(a_secret(expires_at=now - 1), a_secret(expires_at=now + 10, revoked_at=now + 5)),
        *(a_secret(expires_at=None), an_api_token(expires_at=now + 31), an_api_token(expires_at=None)),
    ]
    await store.commit(Commit(rows=(an_app(), *soon, *others)))
    assert await store.expiring(now + 30, limit=10) == soon
    assert await store.expiring(now + 15, limit=10) == soon[:1]


async def test_what_has_ended_is_found_by_its_deadline_unless_it_was_revoked(store: Store) -> None:
    now = store.now()
    ended: list[ClientSecret | ApiToken] = [
        a_secret(expires_at=now - 30),
        an_api_token(expires_at=now - 20),
        a_secret(expires_at=now - 10),
        an_api_token(expires_at=now),
    ]
    others: list[ClientSecret | ApiToken] = [
        a_secret(expires_at=now - 20, revoked_at=now - 25),
        a_secret(expires_at=now + 1),
        an_api_token(expires_at=None),
    ]
    await store.commit(Commit(rows=(an_app(), *ended, *others)))
    assert await store.ended((now - 31, ""), now, limit=10) == ended
    assert await store.ended((now - 30, id_of(ended[0])), now - 10, limit=10) == ended[1:3]
    assert await store.ended((now - 31, ""), now, limit=2) == ended[:2]


async def test_what_has_ended_at_one_moment_is_found_page_by_page(store: Store) -> None:
    end = store.now() - 10
    ended: list[ClientSecret | ApiToken] = [make(expires_at=end) for make in (a_secret, an_api_token) * 3]
    await store.commit(Commit(rows=(an_app(), *ended)))
    found: list[str] = []
    while page := await store.ended((end, found[-1] if found else ""), store.now(), limit=2):
        found += map(id_of, page)
    assert found == sorted(map(id_of, ended))


async def test_request_id_stands_for_one_creation_until_it_is_forgotten(store: Store) -> None:
    creation = Creation(request_key="k", content="c", object_id="o", created_at=store.now())
    assert await store.creation("k") is None
    await store.commit(Commit(rows=(creation,)))
    with pytest.raises(Conflict):
        await store.commit(Commit(rows=(an_app(), replace(creation, object_id="other"))))
    assert await store.creation("k") == creation
    assert await store.app(APP_ID) is None
    await store.collect(limit=100)
    assert await store.creation("k") == creation
    old = replace(creation, request_key="old", created_at=store.now() - KEPT)
    await store.commit(Commit(rows=(old,)))
    assert await store.collect(limit=100) == 1
    assert await store.creation("old") is None


# Names in whitelists


async def test_a81_apps_with_names_are_listed_in_order_and_no_others(store: Store) -> None:
    named = sorted(
        (an_app(app_id=new_id(), whitelist=("10.0.0.1", "dns:a.example")) for _ in range(3)),
        key=lambda app: app.app_id,
    )
    others = (
        an_app(app_id=new_id()),
        an_app(app_id=new_id(), whitelist=("san:dns.example",)),
        an_app(app_id=new_id(), whitelist=("dns:a.example",), deleted=True),
    )
    await store.commit(Commit(rows=(*named, *others)))
    assert await store.apps_with_names(after="", limit=2) == named[:2]
    assert await store.apps_with_names(after=named[1].app_id, limit=2) == named[2:]
    await store.commit(Commit(rows=(replace(named[0], whitelist=(), version=2),)))
    assert await store.apps_with_names(after="", limit=9) == named[1:]


async def test_a81_snapshot_tells_where_names_lead_beside_the_entries(store: Store) -> None:
    app = an_app(whitelist=("dns:a.example",), resolved=("192.0.2.1",), private_names_allowed=True)
    await store.commit(Commit(rows=(app,)))
    assert await store.app(app.app_id) == app
    assert (await store.snapshot()).apps == (app.state,)
    assert app.state.whitelist == ("dns:a.example", "192.0.2.1")


async def test_a81_where_a_name_leads_is_kept_while_it_is_asked_for(store: Store) -> None:
    now = store.now()
    found = [
        Resolution(name=f"{number:04}.example", addresses=("192.0.2.1",), resolved_at=now, due_at=now - 3000)
        for number in range(1200)
    ]
    await store.commit(Commit(rows=tuple(found)))
    assert await store.resolutions(["missing.example"]) == []
    assert await store.resolutions([each.name for each in found]) == found
    with pytest.raises(Conflict):
        await store.commit(Commit(rows=(found[0],)))
    forgotten = replace(found[0], resolved_at=None, due_at=now - 3601, version=2)
    await store.commit(Commit(rows=(forgotten,)))
    assert await store.resolutions([forgotten.name]) == [forgotten]
    assert await store.collect(limit=10) == 1
    assert await store.resolutions([forgotten.name, found[1].name]) == [found[1]]


async def test_last_use_of_an_app_is_that_of_any_of_its_credentials(store: Store) -> None:
    secret, token, other = a_secret(), an_api_token(), an_app(app_id=new_id())
    await store.commit(Commit(rows=(an_app(), other, secret, token)))
    assert await store.last_uses([APP_ID, other.app_id]) == {}
    await store.record_uses(
        [
            Use(credential_id=secret.secret_id, used_at=NOW + 2, used_from=""),
            Use(credential_id=token.api_token_id, used_at=NOW + 1, used_from=""),
        ]
    )
    assert await store.last_uses([APP_ID, other.app_id, new_id()]) == {APP_ID: NOW + 2}
    assert await store.last_uses([other.app_id]) == {}
    assert await store.last_uses([]) == {}
