from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth.view import Revocation
from rpz_auth_server.storage import backup
from rpz_auth_server.storage.store import Commit
from server.storage.build import NOW, a_grant, an_app
from server.storage.conftest import SqliteBackend

Drafting = Callable[[], contextlib.AbstractContextManager[Path]]


@pytest.fixture
async def drafting(sqlite_backend: SqliteBackend, tmp_path: Path) -> Drafting:
    """Drafts of a backup with 100 grants, for a database that has one more by now; nobody has it open."""
    store = await sqlite_backend.open()
    await store.commit(Commit(rows=(an_app(), *(a_grant() for _ in range(100)))))
    copy = tmp_path / "copy.db"
    await asyncio.to_thread(backup.back_up, sqlite_backend.path, copy, lambda *_: None)
    await store.commit(Commit(rows=(a_grant(),)))
    await store.close()
    return lambda: backup.draft_from(copy, sqlite_backend.path, lambda *_: None)


def count_grants(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM grants").fetchone()
        return int(count)


def names_of_copies(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "copy" in path.name]


async def test_copy_is_of_the_moment_in_which_it_begins_while_others_write(
    sqlite_backend: SqliteBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES", 4)
    store = await sqlite_backend.open()
    await store.commit(Commit(rows=(an_app(), *(a_grant() for _ in range(100)))))
    loop = asyncio.get_running_loop()
    steps: list[tuple[int, int]] = []

    def write(done: int, total: int) -> None:
        """Between any two steps, another grant with its event."""
        steps.append((done, total))
        grant = a_grant()
        commit = Commit(rows=(grant,), events=(Revocation(grant.grant_id, NOW),))
        asyncio.run_coroutine_threadsafe(store.commit(commit), loop).result()

    copy = tmp_path / "copy.db"
    await asyncio.to_thread(backup.back_up, sqlite_backend.path, copy, write)
    assert len(steps) > 3
    assert len({total for _, total in steps}) == 1
    assert steps == sorted(steps)  # no step began anew
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        backup.check(connection, copy)
        assert connection.execute("SELECT count(*) FROM grants").fetchone() == (100,)
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert names_of_copies(tmp_path) == ["copy.db"]


def damage(path: Path) -> None:
    """Let a column that has no value say that it always has one."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'moved_to TEXT', 'moved_to TEXT NOT NULL')"
            " WHERE name = 'meta'"
        )


async def test_damaged_database_is_not_backed_up(sqlite_backend: SqliteBackend, tmp_path: Path) -> None:
    await (await sqlite_backend.open()).close()
    damage(sqlite_backend.path)
    with pytest.raises(ConfigurationError, match="is damaged: NULL value in meta"):
        backup.back_up(sqlite_backend.path, tmp_path / "copy.db", lambda *_: None)
    assert names_of_copies(tmp_path) == []


async def test_damaged_backup_is_not_restored(
    sqlite_backend: SqliteBackend, tmp_path: Path, drafting: Drafting
) -> None:
    damage(tmp_path / "copy.db")
    with (
        pytest.raises(ConfigurationError, match="is damaged: NULL value in meta"),
        drafting(),
    ):
        pass
    assert count_grants(sqlite_backend.path) == 101


def test_backup_that_is_not_there_is_not_restored(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match="there is no backup"),
        backup.draft_from(tmp_path / "none.db", tmp_path / "auth.db", lambda *_: None),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_copy_that_cannot_be_finished_leaves_nothing(
    sqlite_backend: SqliteBackend, tmp_path: Path
) -> None:
    await sqlite_backend.open()
    target = tmp_path / "copy.db"

    def fail(_done: int, _total: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigurationError, match="No space left"):
        backup.back_up(sqlite_backend.path, target, fail)
    assert names_of_copies(tmp_path) == []


async def test_database_that_a_process_has_open_is_in_use(sqlite_backend: SqliteBackend) -> None:
    store = await sqlite_backend.open()
    with pytest.raises(ConfigurationError, match="stop it first"):
        backup.ensure_unused(sqlite_backend.path)
    await store.heartbeat()  # which does not hurt it
    await store.close()
    backup.ensure_unused(sqlite_backend.path)


async def test_database_that_was_opened_while_the_draft_was_made_stays_in_its_place(
    sqlite_backend: SqliteBackend, drafting: Drafting
) -> None:
    with drafting() as draft:
        store = await sqlite_backend.open()
        with pytest.raises(ConfigurationError, match="stop it first"):
            backup.put(draft, sqlite_backend.path)
        await store.commit(Commit(rows=(a_grant(),)))
    await store.close()
    assert count_grants(sqlite_backend.path) == 102


async def test_who_opens_while_a_draft_is_put_waits_and_finds_the_restored(
    sqlite_backend: SqliteBackend, drafting: Drafting, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, link, sleep = threading.Event(), os.link, time.sleep

    def pause(seconds: float) -> None:
        waits.set()
        sleep(seconds)

    def link_while_another_opens(source: Path, target: Path) -> None:
        opener.start()
        assert waits.wait(timeout=4)  # less than it waits for the lock
        link(source, target)

    async def open_and_write() -> None:
        store = await sqlite_backend.open()
        await store.commit(Commit(rows=(a_grant(),)))
        await store.close()

    opener = threading.Thread(target=asyncio.run, args=(open_and_write(),))
    monkeypatch.setattr(time, "sleep", pause)
    monkeypatch.setattr(os, "link", link_while_another_opens)
    with drafting() as draft:
        kept = await asyncio.to_thread(backup.put, draft, sqlite_backend.path)
    await asyncio.to_thread(opener.join)
    assert kept is not None
    assert (count_grants(kept), count_grants(sqlite_backend.path)) == (101, 101)


async def test_log_of_a_database_that_was_moved_away_is_not_applied_to_the_restored(
    sqlite_backend: SqliteBackend, drafting: Drafting
) -> None:
    path = sqlite_backend.path
    log = path.with_name(f"{path.name}-wal")
    store = await sqlite_backend.open()
    await store.commit(Commit(rows=(a_grant(),)))
    left = log.read_bytes()
    await store.close()
    path.unlink()
    log.write_bytes(left)
    with drafting() as draft:
        assert backup.put(draft, path) is None
    assert count_grants(path) == 100
    (kept,) = path.parent.glob("auth.db.before-restore-*")
    assert kept.name.endswith("-wal")
    assert kept.read_bytes() == left


async def test_error_that_is_no_other_process_is_told_as_it_is(sqlite_backend: SqliteBackend) -> None:
    store = await sqlite_backend.open()
    await store.close()
    with contextlib.closing(sqlite3.connect(sqlite_backend.path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    sqlite_backend.path.with_name(f"{sqlite_backend.path.name}-wal").mkdir()
    with pytest.raises(ConfigurationError, match="unable to open database file; mend that"):
        backup.ensure_unused(sqlite_backend.path)
