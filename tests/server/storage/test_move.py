from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth.view import Revocation
from rpz_auth_server.domain.refusal import DatabaseMoved
from rpz_auth_server.storage import move
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.sql import INCOMING
from rpz_auth_server.storage.store import Commit, Store
from server.storage.build import APP_ID, NOW, a_grant, an_app, an_issuer

if TYPE_CHECKING:
    from server.storage.conftest import PostgresBackend, SqliteBackend

Target = psycopg.Connection[tuple[Any, ...]]

NAME = "postgresql://there"
LATE = "late"


class Move:
    """A move from one database to the other, of whose two sides nobody knows anything yet."""

    def __init__(self, source: SqliteBackend, target: PostgresBackend) -> None:
        self.source, self.target = source, target

    def __call__(self, progress: move.Progress = lambda *_: None) -> int:
        lock = FileLock(self.source.path.with_name(f"{self.source.path.name}.lock"))
        with contextlib.closing(lock):
            return move.move(self.source.path, lock, self.target.url, NAME, progress)

    @contextlib.contextmanager
    def on_source(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.source.path, isolation_level=None)) as connection:
            yield connection

    @contextlib.contextmanager
    def on_target(self) -> Iterator[Target]:
        with psycopg.connect(self.target.url, autocommit=True) as connection:
            yield connection

    def marks(self) -> tuple[str | None, str | None]:
        """What source and target say of where the authority lives."""
        statement = "SELECT moved_to FROM meta"
        with self.on_source() as source, self.on_target() as target:
            (own,) = source.execute(statement).fetchone()
            ((theirs,),) = target.execute(statement).fetchall()
        return own, theirs

    def meddle(self, table: str, when: str, body: str, condition: str = "true") -> None:
        """Have the target do something else than it is told."""
        with self.on_target() as target:
            target.execute(
                f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
                f"CREATE TRIGGER meddle {when} ON {table} FOR EACH ROW WHEN ({condition})"
                " EXECUTE FUNCTION meddle()".encode()
            )


def meanwhile(store: Store, commit: Commit) -> Callable[..., None]:
    """What writes once, while rows are copied."""
    loop, left = asyncio.get_running_loop(), [commit]

    def write(*_: object) -> None:
        if left:
            asyncio.run_coroutine_threadsafe(store.commit(left.pop()), loop).result()

    return write


@pytest.fixture
async def moving(
    sqlite_backend: SqliteBackend, postgres_backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> Move:
    """An authority with an App and ten grants, and an empty database to move it to."""
    monkeypatch.setattr(move, "_BATCH", 1)
    await (await postgres_backend.open()).close()
    store = await sqlite_backend.open()
    await store.commit(Commit(rows=(an_issuer(), an_app(), *(a_grant() for _ in range(10)))))
    return Move(sqlite_backend, postgres_backend)


async def test_what_is_moved_lives_there_and_here_no_more(moving: Move) -> None:
    before = await moving.source.open()
    event = Commit(rows=(a_grant(),), events=(Revocation("x", NOW),))
    await before.commit(event)
    cursor = await before.cursor()
    waiting = asyncio.create_task(before.wait_for_events(cursor))
    rows = await asyncio.to_thread(moving)
    assert rows >= 13
    assert moving.marks() == (NAME, None)
    with pytest.raises(DatabaseMoved):  # who waits for events, and who writes, both leave
        await waiting
    with pytest.raises(DatabaseMoved):
        await before.commit(Commit(rows=(a_grant(),)))
    with pytest.raises(ConfigurationError, match=f"was moved .{NAME}. and is not used"):
        await moving.source.open()
    after = await moving.target.open()
    assert await after.instance() == await before.instance()
    assert await after.app(APP_ID) == an_app()
    assert await after.cursor() == cursor
    assert len(await after.grants_of_app(APP_ID, after="", limit=100)) == 11


async def test_what_changes_meanwhile_comes_too(moving: Move) -> None:
    store = await moving.source.open()
    first, *_ = await store.grants_of_app(APP_ID, after="", limit=1)
    changed, new = replace(first, generation=9, version=2), a_grant()
    await asyncio.to_thread(moving, meanwhile(store, Commit(rows=(changed, new))))
    after = await moving.target.open()
    assert await after.grant(first.grant_id) == changed
    assert await after.grant(new.grant_id) == new


async def test_database_that_was_moved_elsewhere_is_not_moved_again(moving: Move) -> None:
    with moving.on_source() as source:
        source.execute("UPDATE meta SET moved_to = 'elsewhere'")
    with pytest.raises(ConfigurationError, match="was moved to elsewhere already"):
        moving()
    assert moving.marks() == ("elsewhere", None)


async def test_move_that_is_finished_says_so(moving: Move) -> None:
    moving()
    with pytest.raises(ConfigurationError, match="is finished: start the authority with --database"):
        moving()
    assert moving.marks() == (NAME, None)


async def test_another_authority_is_not_written_over(moving: Move) -> None:
    other = await moving.target.open()
    await other.commit(Commit(rows=(an_issuer(),)))
    with pytest.raises(ConfigurationError, match="holds another authority: name an empty database"):
        moving()
    assert moving.marks() == (None, None)
    assert await other.app(APP_ID) is None


async def test_what_is_not_finished_is_opened_by_nobody_and_can_be_begun_again(moving: Move) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moving(interrupt)
    with pytest.raises(ConfigurationError, match="is being moved to this database, and that is not finished"):
        await moving.target.open()
    moving()
    assert await (await moving.target.open()).app(APP_ID) == an_app()


async def test_rows_that_do_not_come_back_are_not_moved(moving: Move) -> None:
    moving.meddle("apps", "BEFORE INSERT", "NEW.owner := 'mallory'; RETURN NEW;")
    with pytest.raises(
        ConfigurationError, match="apps does not come back as it was copied; nothing was moved"
    ):
        moving()
    assert moving.marks() == (None, INCOMING)
    await (await moving.source.open()).commit(Commit(rows=(a_grant(),)))  # it lives on


@pytest.mark.parametrize(
    ("table", "when", "body", "refusal"),
    [
        (
            "grants",
            "BEFORE INSERT",
            "NEW.peer := '192.0.2.1'; RETURN NEW;",
            "a row of grants does not come back",
        ),
        (
            "grants",
            "AFTER INSERT",
            "INSERT INTO refusals VALUES (0, 'x', 'y', 1); RETURN NULL;",
            "refusals has .* rows here and .* there; the source stays fenced: run it again",
        ),
    ],
)
async def test_changes_that_do_not_come_back_are_not_moved(
    moving: Move, table: str, when: str, body: str, refusal: str
) -> None:
    moving.meddle(table, when, body, f"NEW.subject = '{LATE}'")
    store = await moving.source.open()
    late = Commit(rows=(a_grant(subject=LATE),))
    with pytest.raises(ConfigurationError, match=refusal):
        await asyncio.to_thread(moving, meanwhile(store, late))
    assert moving.marks()[1] == INCOMING


async def test_target_that_does_not_take_over_is_noticed(moving: Move) -> None:
    moving.meddle("meta", "BEFORE UPDATE", "NEW.now := 0; RETURN NEW;", "NEW.moved_to IS NULL")
    with pytest.raises(ConfigurationError, match="did not take over; the source stays fenced: run it again"):
        moving()
    assert moving.marks()[0] == NAME


async def test_target_without_its_one_row_of_meta_is_refused(moving: Move) -> None:
    with moving.on_target() as target:
        target.execute("DELETE FROM meta")
    with pytest.raises(ConfigurationError, match="lost its meta row"):
        moving()
    with moving.on_source() as source:
        assert source.execute("SELECT moved_to FROM meta").fetchone() == (None,)
