from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpz_auth.view import AppState, Change, Revocation
from rpz_auth_server.domain.event import BEGINNING, Cursor
from rpz_auth_server.domain.grant import Grant, GrantState
from rpz_auth_server.storage import events, file, rows
from rpz_auth_server.storage.bounds import API_TOKENS, APPS
from rpz_auth_server.storage.collect import collect
from server.storage.build import NOW, a_grant, an_app

HOUR = 3600.0
ACCESS_TOKEN = 2 * HOUR
LEEWAY = 60.0


def a_database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    file.migrate(connection)
    return connection


@dataclass(frozen=True)
class Step:
    """Some time passes; then grants are renewed or revoked, and the collector runs."""

    hours: float
    renewed: frozenset[int]
    revoked: frozenset[int]
    limit: int


places = st.frozensets(st.integers(0, 5))
steps = st.lists(
    st.builds(
        Step,
        hours=st.floats(0, 60),
        renewed=places,
        revoked=places,
        limit=st.integers(1, 8),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(
    ends=st.lists(st.tuples(st.floats(0, 48), st.floats(0, 96)), min_size=6, max_size=6),
    steps=steps,
)
def test_grants_live_as_long_as_anything_of_them_can_be_presented(
    ends: list[tuple[float, float]], steps: list[Step]
) -> None:
    connection = a_database()
    file.run(connection, rows.write(an_app()))
    grants: list[Grant] = []
    for idle, absolute in ends:
        grant = a_grant(
            state=GrantState.ACTIVE, idle_expires_at=NOW + idle * HOUR, expires_at=NOW + absolute * HOUR
        )
        file.run(connection, rows.write(grant))
        grants.append(grant)

    def stored(grant: Grant) -> bool:
        found: tuple[Any, ...] | None = connection.execute(
            f"{rows.GRANTS.select} WHERE grant_id = ?", (grant.grant_id,)
        ).fetchone()
        return found is not None and rows.GRANTS.load(found) == grant

    now = NOW
    for step in steps:
        now += step.hours * HOUR
        for place in sorted(step.renewed | step.revoked):
            grant = grants[place]
            if grant.state is GrantState.REVOKED or now >= grant.ends_at:
                continue
            changed = replace(grant, version=grant.version + 1)
            if place in step.revoked:
                changed = replace(changed, state=GrantState.REVOKED)
            else:
                idle = now + 40 * HOUR
                changed = replace(changed, idle_expires_at=idle, access_expires_at=now + ACCESS_TOKEN)
            file.run(connection, rows.write(changed))
            grants[place] = changed
        file.run(connection, collect(now, step.limit))
        for grant in grants:
            refresh_token_is_told_from_garbage = now < grant.ends_at
            access_token_may_live = now <= grant.access_expires_at + LEEWAY
            if refresh_token_is_told_from_garbage or access_token_may_live:
                assert stored(grant)

    while file.run(connection, collect(now, 2)):
        pass
    assert {grant.grant_id for grant in grants if stored(grant)} == {
        grant.grant_id for grant in grants if rows.dead_at(grant) > now
    }
    connection.close()


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("app"), st.just(0.0)),
            st.tuples(st.just("revocation"), st.floats(0, 3 * HOUR)),
            st.tuples(st.just("pass"), st.floats(0, HOUR)),
            st.tuples(st.just("collect"), st.just(0.0)),
        ),
        max_size=40,
    )
)
def test_no_cursor_ever_skips_a_collected_event(steps: list[tuple[str, float]]) -> None:
    connection = a_database()
    now = NOW
    written: list[Change] = []
    cursors: list[Cursor] = [BEGINNING]
    made = [now]
    for number, (what, seconds) in enumerate(steps):
        match what:
            case "pass":
                now += seconds
                continue
            case "collect":
                file.run(connection, collect(now, 3))
            case "app":
                written.append(AppState(app_id="a", version=number))
            case _:
                written.append(Revocation(str(number), now + seconds))
        if what != "collect":
            file.run(connection, events.write(written[-1], now))
            cursors.append(file.run(connection, events.newest()))
            made.append(now)
        for place, cursor in enumerate(cursors):
            found = file.run(connection, events.after(cursor, 1000))
            if found is not None:
                assert [event.change for event in found] == written[place:]
            else:  # for ten minutes, whoever stood there could have gone on
                assert place < len(cursors) - 1
                assert made[place + 1] + events.KEEP <= now
        live = {change for change in written if isinstance(change, Revocation) and change.forget_at > now}
        assert set(file.run(connection, events.snapshot(now)).revocations) == live
    connection.close()


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        ("SELECT 1 FROM grants WHERE collect_at <= 1 ORDER BY collect_at LIMIT 5", "grants_collect"),
        ("SELECT 1 FROM grants WHERE subject = 'a'", "grants_subject"),
        ("SELECT 1 FROM grants WHERE app_id = 'a'", "grants_app"),
        ("SELECT 1 FROM client_secrets WHERE coalesce(revoked_at, expires_at) <= 1", "client_secrets_dead"),
        ("SELECT 1 FROM api_tokens WHERE coalesce(revoked_at, expires_at) <= 1", "api_tokens_dead"),
        ("SELECT 1 FROM apps WHERE deleted = 1 AND updated_at <= 1", "apps_deleted"),
        (
            "SELECT 1 FROM apps WHERE owner = 'a' AND app_id > '' AND deleted = 0 ORDER BY app_id",
            "apps_owner",
        ),
        (APPS, "apps_owner"),
        (
            "SELECT 1 FROM apps WHERE locked = 1 OR deleted = 1 OR epoch > 0 OR whitelist <> '[]'",
            "apps_special",
        ),
        ("SELECT 1 FROM events WHERE forget_at <= 1 ORDER BY forget_at LIMIT 5", "events_forgotten"),
    ],
)
def test_recurring_searches_use_their_index(statement: str, index: str) -> None:
    connection = a_database()
    values = ["a"] * statement.count("?")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    connection.close()
    assert len(plan) == 1
    assert index in plan[0]


def test_api_tokens_are_counted_in_two_ranges_of_their_index() -> None:
    connection = a_database()
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {API_TOKENS}", ("a", "a", 1))]
    connection.close()
    searches = [step for step in plan if "api_tokens" in step]
    assert [step.partition(" INDEX ")[2] for step in searches] == [
        "api_tokens_live (app_id=? AND expires_at=?)",
        "api_tokens_live (app_id=? AND expires_at>?)",
    ]


def test_refresh_rewrites_no_index() -> None:
    connection = a_database()
    file.run(connection, rows.write(an_app()))
    grant = a_grant()
    file.run(connection, rows.write(grant))
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    renewed = replace(grant, version=2, generation=1, idle_expires_at=NOW + HOUR)
    file.run(connection, rows.write(renewed))
    connection.set_trace_callback(None)
    (update,) = statements
    written = {
        row[3]
        for row in connection.execute(f"EXPLAIN {update}")
        if row[1] in {"IdxInsert", "IdxDelete", "Insert", "Delete"}
    }
    tables = {
        row[0] for row in connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'grants'")
    }
    opened = [row[3] for row in connection.execute(f"EXPLAIN {update}") if row[1] == "OpenWrite"]
    connection.close()
    assert written
    assert set(opened) == tables
