"""What only the store on PostgreSQL has to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from rpz_auth.errors import BackendUnavailable, ConfigurationError, Reason
from rpz_auth.view import Revocation
from rpz_auth_server.domain.event import BEGINNING
from rpz_auth_server.domain.refusal import Conflict, DatabaseMoved, Overloaded, RequestInvalid
from rpz_auth_server.storage.postgres import reader, writer
from rpz_auth_server.storage.postgres.dialect import translate
from rpz_auth_server.storage.postgres.session import Address
from rpz_auth_server.storage.postgres.store import PostgresStore
from rpz_auth_server.storage.store import Commit
from server.storage.build import APP_ID, NOW, a_grant, an_app, new_id
from support.clock import Clock
from support.postgres import PostgresServer, running_postgres

if TYPE_CHECKING:
    from server.storage.conftest import PostgresBackend


@pytest.fixture
async def store(postgres_backend: PostgresBackend) -> PostgresStore:
    return await postgres_backend.open()


@pytest.fixture
def admin(postgres_backend: PostgresBackend) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(postgres_backend.url, autocommit=True) as connection:
        yield connection


@contextlib.contextmanager
def held_up(admin: psycopg.Connection[tuple[Any, ...]]) -> Iterator[None]:
    """Keep every writer from starting a transaction, so that what comes meanwhile waits together."""
    with admin.transaction():
        admin.execute("SELECT 1 FROM meta FOR UPDATE")
        yield


def transactions(admin: psycopg.Connection[tuple[Any, ...]]) -> int:
    """How many transactions have written to this database's server so far."""
    ((number,),) = admin.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchall()
    return int(number)


async def outcomes(tasks: list[asyncio.Task[Any]]) -> list[BaseException | None]:
    results: list[BaseException | None] = await asyncio.gather(*tasks, return_exceptions=True)
    return results


# Statements


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("SELECT a FROM b WHERE c = ? LIMIT ?", b"SELECT a FROM b WHERE c = %s LIMIT %s"),
        ("SELECT a WHERE b LIKE 'x%'", b"SELECT a WHERE b LIKE 'x%%'"),
        (
            "CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER, c REAL, d BLOB) STRICT, WITHOUT ROWID",
            b'CREATE TABLE t (a TEXT COLLATE "C" PRIMARY KEY, b BIGINT, c DOUBLE PRECISION, d BYTEA)',
        ),
        (
            "\n  CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT) STRICT\n ",
            b"\n  CREATE TABLE t (a BIGINT PRIMARY KEY)",
        ),
    ],
)
def test_shared_texts_are_translated(text: str, translated: bytes) -> None:
    assert translate(text) == translated


async def test_text_that_postgresql_cannot_hold_finds_nothing_and_harms_no_look_up_beside_it(
    store: PostgresStore,
) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    found = await asyncio.gather(*(store.app(app_id) for app_id in ("\0", APP_ID)))
    assert found == [None, an_app()]


# Grouping


async def test_a120_text_that_postgresql_cannot_hold_is_refused_and_costs_no_connection(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a way for anybody who lists its own to take the connections from all others."""

    async def connect(_address: Address) -> Any:
        raise AssertionError("the connection was given up")

    await store.api_tokens(APP_ID, after="", limit=1)
    monkeypatch.setattr(Address, "connect", connect)
    for _ in range(2 * reader.LANES):
        with pytest.raises(RequestInvalid):
            await store.api_tokens(APP_ID, after="\0", limit=1)
    assert await store.api_tokens(APP_ID, after="", limit=1) == []


async def test_commits_that_wait_together_share_one_transaction(
    store: PostgresStore, admin: psycopg.Connection[tuple[Any, ...]]
) -> None:
    taken = a_grant()
    await store.commit(Commit(rows=(an_app(), taken)))
    rows = [taken if number % 8 == 0 else a_grant() for number in range(64)]
    with held_up(admin):
        first = asyncio.create_task(store.heartbeat())
        await waiting_for_a_lock(admin)
        tasks = [asyncio.create_task(store.commit(Commit(rows=(row,)))) for row in rows]
        await asyncio.sleep(0)
    await first
    before = transactions(admin)
    results = await outcomes(tasks)
    assert transactions(admin) - before <= 1
    assert [type(error) for error in results] == [Conflict if row is taken else type(None) for row in rows]
    assert await asyncio.gather(*(store.grant(row.grant_id) for row in rows)) == rows


async def test_commit_whose_app_has_gone_harms_none_of_the_commits_beside_it(
    store: PostgresStore, admin: psycopg.Connection[tuple[Any, ...]]
) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    rows = [a_grant(app_id="nobody") if number % 3 == 0 else a_grant() for number in range(12)]
    with held_up(admin):
        tasks = [asyncio.create_task(store.commit(Commit(rows=(row,)))) for row in rows]
        await waiting_for_a_lock(admin)
    lost = [row.app_id == "nobody" for row in rows]
    assert [type(error) for error in await outcomes(tasks)] == [
        Conflict if row_lost else type(None) for row_lost in lost
    ]
    found = await asyncio.gather(*(store.grant(row.grant_id) for row in rows))
    assert found == [None if row_lost else row for row, row_lost in zip(rows, lost, strict=True)]


async def test_look_ups_of_one_turn_of_the_loop_are_one_query(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    grants = [a_grant() for _ in range(50)]
    await store.commit(Commit(rows=tuple(grants)))
    queries: list[int] = []
    carry_out = reader._LookUps.carry_out

    async def counted(self: reader._LookUps, session: Any) -> None:
        queries.append(len(self.waiting))
        await carry_out(self, session)

    monkeypatch.setattr(reader._LookUps, "carry_out", counted)
    asked = [*grants, *grants[:10]]
    found = await asyncio.gather(*(store.grant(row.grant_id) for row in asked), store.grant("unknown"))
    assert found == [*asked, None]
    assert queries == [51]


async def test_commit_beyond_what_may_wait_is_refused_at_once(
    store: PostgresStore, admin: psycopg.Connection[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE", 8)
    with held_up(admin):
        first = asyncio.create_task(store.heartbeat())
        await waiting_for_a_lock(admin)
        tasks = [asyncio.create_task(store.collect(limit=1)) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await store.collect(limit=1)
        assert (refused.value.reason, refused.value.retry_after) == (Reason.RATE_LIMITED, 1.0)
        heartbeats = [asyncio.create_task(store.heartbeat()) for _ in range(8)]  # have room all the same
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await store.heartbeat()
    assert await asyncio.gather(first, *heartbeats) == [NOW] * 9
    assert await asyncio.gather(*tasks) == [0] * 8


async def test_read_beyond_what_may_wait_is_refused_at_once(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "WAITING", 8)
    tasks = [asyncio.create_task(store.app(new_id())) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await store.app(APP_ID)
    assert (refused.value.reason, refused.value.retry_after) == (Reason.RATE_LIMITED, 1.0)
    assert await asyncio.gather(*tasks) == [None] * 8


async def waiting_for_a_lock(admin: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Return once somebody waits for a lock in this database."""
    async with asyncio.timeout(30):
        while True:
            with psycopg.connect(admin.info.dsn, autocommit=True) as other:
                waiting = other.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND datname = current_database()"
                ).fetchall()
            if waiting:
                return
            await asyncio.sleep(0.01)


# Failures


async def test_r128_connections_that_were_ended_are_made_again(
    store: PostgresStore, admin: psycopg.Connection[tuple[Any, ...]]
) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    for _ in range(3):
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert await store.app(APP_ID) == an_app()
        await store.heartbeat()
        await store.commit(Commit(events=(Revocation("x", NOW + 9),)))
    events = await store.events_after(BEGINNING, limit=10)
    assert events is not None
    assert len(events) == 3


async def test_waiter_hears_of_events_that_came_while_it_could_not_listen(
    postgres_backend: PostgresBackend, admin: psycopg.Connection[tuple[Any, ...]]
) -> None:
    store, other = await postgres_backend.open(), await postgres_backend.open()
    waiting = asyncio.create_task(store.wait_for_events(BEGINNING))
    await other.commit(Commit(rows=(an_app(),)))
    assert not waiting.done()
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    await other.commit(Commit(events=(Revocation("x", NOW + 9),)))
    await asyncio.wait_for(waiting, 10)


async def test_r128_frozen_server_is_unavailable_in_bounded_time_and_good_again_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (reader, writer):
        monkeypatch.setattr(module, "PATIENCE", 1.0)
    with running_postgres() as server:
        store = await PostgresStore.open(server.create_database())
        await store.commit(Commit(rows=(an_app(),)))
        with frozen(server):
            async with asyncio.timeout(20):
                found = await asyncio.gather(
                    store.app(APP_ID), store.heartbeat(), store.cursor(), return_exceptions=True
                )
            assert [type(error) for error in found] == [BackendUnavailable] * 3
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(BackendUnavailable):
                    assert await store.app(APP_ID) == an_app()
                    await store.heartbeat()
                    break
        await store.close()


@contextlib.contextmanager
def frozen(server: PostgresServer) -> Iterator[None]:
    """Stop every process of a server, as a machine does that hangs."""
    assert server.process is not None
    postmaster = server.process.pid
    processes = [postmaster, *(int(pid) for (pid,) in server.execute("SELECT pid FROM pg_stat_activity"))]
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def test_server_that_does_not_wait_for_its_replicas_any_more_leaves_the_outcome_unknown() -> None:
    """A cancelled wait leaves the commit visible and not replicated: nobody may be told that it holds."""
    with running_postgres() as server:
        store = await PostgresStore.open(server.create_database())
        await store.commit(Commit(rows=(an_app(),)))
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.execute("SELECT pg_reload_conf()")
        committing = asyncio.create_task(store.commit(Commit(rows=(an_app(version=2, display_name="x"),))))
        async with asyncio.timeout(5):
            while not server.execute(  # noqa: ASYNC110 - another process sets it
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            ):
                await asyncio.sleep(0.01)
        with pytest.raises(BackendUnavailable):
            await committing
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
        await store.heartbeat()
        assert await store.app(APP_ID) == an_app(version=2, display_name="x")
        await store.close()


async def test_transaction_that_has_failed_is_not_taken_for_committed(
    postgres_backend: PostgresBackend,
) -> None:
    session = await Address(postgres_backend.url).connect()
    await session.connection.execute("BEGIN")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await session.connection.execute("SELECT 1 / 0")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        await session.commit()
    await session.close()


async def test_database_that_was_moved_takes_no_more_writes(
    store: PostgresStore, admin: psycopg.Connection[tuple[Any, ...]]
) -> None:
    admin.execute("UPDATE meta SET moved_to = 'elsewhere'")
    with pytest.raises(DatabaseMoved):
        await store.commit(Commit(rows=(an_app(),)))
    assert admin.execute("SELECT count(*) FROM apps").fetchone() == (0,)


async def test_nothing_is_queued_behind_the_end(store: PostgresStore) -> None:
    await store.close()
    with pytest.raises(BackendUnavailable):
        await store.commit(Commit(rows=(an_app(),)))
    assert store.write_load().waiting == 0


# Starting


async def test_stores_that_start_together_make_the_tables_once(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    stores = await asyncio.gather(*(PostgresStore.open(url) for _ in range(6)))
    assert len({await store.instance() for store in stores}) == 1
    await asyncio.gather(*(store.close() for store in stores))


async def test_time_is_the_servers(postgres: PostgresServer) -> None:
    own = await PostgresStore.open(postgres.create_database(), monotonic=Clock(0.0))
    ((server_now,),) = postgres.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
    assert server_now - 60 < own.now() <= server_now
    await own.close()


async def test_session_that_would_not_wait_for_the_disk_is_made_to(
    postgres_backend: PostgresBackend, admin: psycopg.Connection[tuple[Any, ...]]
) -> None:
    admin.execute("ALTER ROLE rpz SET synchronous_commit = off")
    try:
        session = await Address(postgres_backend.url).connect()
    finally:
        admin.execute("ALTER ROLE rpz RESET synchronous_commit")
    cursor = await session.connection.execute("SHOW synchronous_commit")
    assert await cursor.fetchall() == [("on",)]
    await session.close()


async def test_server_without_fsync_is_refused() -> None:
    with (
        running_postgres("fsync = off") as server,
        pytest.raises(ConfigurationError, match="fsync = off"),
    ):
        await PostgresStore.open(server.create_database())


async def test_database_of_another_program_is_refused(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE apps (name text)")
    with pytest.raises(ConfigurationError, match="another program"):
        await PostgresStore.open(url)


async def test_database_of_a_newer_version_is_refused(
    postgres_backend: PostgresBackend, admin: psycopg.Connection[tuple[Any, ...]]
) -> None:
    await postgres_backend.open()
    admin.execute("INSERT INTO migrations VALUES ('m9999_from_the_future')")
    with pytest.raises(ConfigurationError, match="newer rpz-auth-server"):
        await PostgresStore.open(postgres_backend.url)


async def test_first_of_several_hosts_that_takes_writes_is_used(
    postgres: PostgresServer,
) -> None:
    options = postgres.create_database().partition("&options=")[2]
    # Nobody listens on the first port; the second is the server.
    url = f"postgresql://rpz@127.0.0.1:1,127.0.0.1:{postgres.port}/postgres?options={options}"
    store = await PostgresStore.open(url)
    await store.heartbeat()
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://rpz:can/ary:se@cret@db.example/rpz",
        "postgresql://rpz:12/canary@db.example/rpz",
        "postgresql://rpz:12/canary:secret",
        "postgresql://rpz:some@canary@db.example/rpz",
        "postgresql://rpz:canary@:5432@db.example/rpz",
        "postgresql://rpz@db.example:5432,x:1@canary/rpz",
        "postgresql://rpz@db.example/canary%2Fname",
    ],
)
def test_r126_url_whose_password_is_cut_into_pieces_is_refused_and_shown_nowhere(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Address(url)
    assert "canary" not in f"{refused.value} {refused.value.__cause__} {refused.value.__context__}"


def test_password_that_is_percent_encoded_is_taken_and_not_shown() -> None:
    assert str(Address("postgresql://rpz:c%40n%2Fa%3Ary@[::1]:5432,db.example/rpz")) == (
        "postgresql://::1,db.example/rpz"
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://rpz:canary-secret@127.0.0.1:1/nowhere",
        "postgresql://rpz:canary-secret@[::1/nowhere",
        "postgresql://rpz@127.0.0.1:1/nowhere?password=canary-secret&unknown=1",
    ],
)
async def test_r126_password_in_the_url_is_in_no_error(url: str) -> None:
    with pytest.raises((BackendUnavailable, ConfigurationError)) as refused:
        await PostgresStore.open(url)
    error: BaseException | None = refused.value
    while error is not None:
        assert "canary" not in str(error)
        assert "canary" not in repr(error)
        error = error.__cause__ or error.__context__
