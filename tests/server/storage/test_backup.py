from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
from pathlib import Path

import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth.view import Revocation
from rpz_auth_server.storage import backup
from rpz_auth_server.storage.store import Commit
from server.storage.build import NOW, a_grant, an_app
from server.storage.conftest import SqliteBackend


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
