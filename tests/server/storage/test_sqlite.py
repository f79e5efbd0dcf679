from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rpz_auth.errors import BackendUnavailable, ConfigurationError, Reason
from rpz_auth.view import Revocation
from rpz_auth_server.domain.event import BEGINNING, Audit
from rpz_auth_server.domain.refusal import Conflict, Overloaded
from rpz_auth_server.storage import file, writer
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from server.storage import worker
from server.storage.build import APP_ID, NOW, a_grant, an_app
from support.clock import Clock

if TYPE_CHECKING:
    from server.storage.conftest import SqliteBackend

TESTS = Path(__file__).parents[2]


@contextlib.contextmanager
def working(what: str, path: Path, *, under: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    command = [*under, sys.executable, str(Path(worker.__file__)), what, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(  # noqa: S603 - this interpreter, and files of this folder
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.endswith("\n"), "the worker has ended"
    return line.strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "auth.db"


@pytest.fixture
async def store(sqlite_backend: SqliteBackend) -> SqliteStore:
    return await sqlite_backend.open()


@contextlib.contextmanager
def counting_commits(store: SqliteStore) -> Iterator[list[str]]:
    commits: list[str] = []
    store._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    yield commits
    store._connection.set_trace_callback(None)


@contextlib.contextmanager
def held_up(path: Path) -> Iterator[None]:
    """Keep the writer from starting a transaction, so that what comes meanwhile waits together."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with lock.held():
        yield
    lock.close()


# Grouping


async def test_commits_that_wait_together_share_one_transaction(store: SqliteStore, path: Path) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    taken = a_grant()
    await store.commit(Commit(rows=(taken,)))
    rows = [taken if number % 8 == 0 else a_grant() for number in range(64)]
    with counting_commits(store) as commits:
        with held_up(path):
            tasks = [asyncio.create_task(store.commit(Commit(rows=(row,)))) for row in rows]
            await asyncio.sleep(0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert commits == ["COMMIT"]
    assert [type(error) for error in results] == [Conflict if row is taken else type(None) for row in rows]
    assert [await store.grant(row.grant_id) for row in rows] == rows


async def test_one_transaction_takes_a_bounded_number_of_commits(store: SqliteStore, path: Path) -> None:
    with counting_commits(store) as commits:
        with held_up(path):
            tasks = [asyncio.create_task(store.heartbeat()) for _ in range(writer.BATCH + 1)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
    assert commits == ["COMMIT"] * 2


async def test_commit_beyond_what_may_wait_is_refused_at_once(store: SqliteStore, path: Path) -> None:
    with held_up(path):
        tasks = [asyncio.create_task(store.collect(limit=1)) for _ in range(writer.QUEUE)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await store.collect(limit=1)
        assert (refused.value.reason, refused.value.retry_after) == (Reason.RATE_LIMITED, 1.0)
        heartbeat = asyncio.create_task(store.heartbeat())  # has room all the same
        await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [0] * writer.QUEUE
    assert await heartbeat == NOW


async def test_heartbeats_too_are_refused_at_last(store: SqliteStore, path: Path) -> None:
    with held_up(path):
        tasks = [asyncio.create_task(store.heartbeat()) for _ in range(2 * writer.QUEUE)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await store.heartbeat()
    assert await asyncio.gather(*tasks) == [NOW] * (2 * writer.QUEUE)


async def test_close_carries_out_more_than_one_batch(store: SqliteStore, path: Path) -> None:
    with held_up(path):
        tasks = [asyncio.create_task(store.heartbeat()) for _ in range(writer.BATCH + 1)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        while not store._writer._stopping:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0)
    await closing
    assert await asyncio.gather(*tasks) == [NOW] * len(tasks)


async def test_transaction_that_ends_under_a_commit_fails_its_whole_batch(
    store: SqliteStore, path: Path
) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    store._connection.execute(
        "CREATE TEMP TRIGGER full_disk BEFORE INSERT ON grants WHEN NEW.subject = 'poison'"
        " BEGIN SELECT RAISE(ROLLBACK, 'as a full disk does'); END"
    )
    rows = [a_grant(), a_grant(subject="poison"), a_grant()]
    with held_up(path):
        tasks = [asyncio.create_task(store.commit(Commit(rows=(row,)))) for row in rows]
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in results] == [BackendUnavailable] * 3
    assert [await store.grant(row.grant_id) for row in rows] == [None] * 3
    await store.commit(Commit(rows=(rows[0],)))
    assert await store.grant(rows[0].grant_id) == rows[0]


async def test_commit_that_fails_on_disk_fails_its_whole_batch(store: SqliteStore, path: Path) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    # The only failure of COMMIT itself that can be made to order: a constraint that is checked there.
    store._connection.executescript(
        "CREATE TABLE late (app_id TEXT REFERENCES apps DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TEMP TRIGGER late BEFORE INSERT ON grants WHEN NEW.subject = 'poison'"
        " BEGIN INSERT INTO late VALUES ('nobody'); END"
    )
    rows = [a_grant(), a_grant(subject="poison"), a_grant()]
    with held_up(path):
        tasks = [asyncio.create_task(store.commit(Commit(rows=(row,)))) for row in rows]
        await asyncio.sleep(0)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in results] == [BackendUnavailable] * 3
    assert [await store.grant(row.grant_id) for row in rows] == [None] * 3
    await store.commit(Commit(rows=(rows[0],)))
    assert await store.grant(rows[0].grant_id) == rows[0]


async def test_r128_database_that_another_program_keeps_locked_is_unavailable(
    store: SqliteStore, path: Path
) -> None:
    store._connection.execute("PRAGMA busy_timeout = 1")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable):
            await store.heartbeat()
        assert await store.app(APP_ID) is None  # a reader does not wait for it
        other.execute("ROLLBACK")
    assert await store.heartbeat() == NOW


async def test_program_that_does_not_close_its_store_still_ends(path: Path) -> None:
    await asyncio.to_thread(asyncio.run, _open_only(path))
    names = [thread.name for thread in threading.enumerate() if not thread.daemon]
    assert "rpz-auth-writer" not in names


async def _open_only(path: Path) -> None:
    store = await SqliteStore.open(path)
    store._reader.close()


# Processes


async def test_r030_a07_of_processes_that_start_together_one_replaces_a_row(
    sqlite_backend: SqliteBackend,
) -> None:
    grants = [a_grant() for _ in range(20)]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(working("race", sqlite_backend.path)) for _ in range(4)]
        assert [hear(process) for process in processes] == ["ready"] * 4
        for process in processes:
            tell(process, "open")
        store = await sqlite_backend.open()
        instances = {hear(process) for process in processes}
        assert instances == {await store.instance()}  # five migrated at once, and made one database
        await store.commit(Commit(rows=(an_app(), *grants)))
        for grant in grants:
            for process in processes:
                tell(process, grant.grant_id)
            answers = [hear(process).split(",") for process in processes]
            winners = [peer for _, *won in answers for peer in won if peer]
            assert len(winners) == 1
            assert sum(int(lost) for lost, *_ in answers) == 4 * worker.CANDIDATES - 1
            kept = await store.grant(grant.grant_id)
            assert kept is not None
            assert kept.peer == winners[0]


async def test_a131_event_of_another_process_is_seen_within_twenty_milliseconds(
    store: SqliteStore, path: Path
) -> None:
    loop = asyncio.get_running_loop()
    delays = []
    with working("announce", path) as process:
        assert hear(process) == "ready"
        for number in range(10):
            cursor = await store.cursor()
            waiting = asyncio.create_task(store.wait_for_events(cursor))
            tell(process, str(number))
            assert await asyncio.to_thread(hear, process) == "committed"
            committed = loop.time()
            await waiting
            delays.append(loop.time() - committed)
            events = await store.events_after(cursor, limit=9)
            assert events is not None
            assert [event.change for event in events] == [Revocation(str(number), NOW)]
    assert sorted(delays)[5] < 0.02


# Durability


def synced_before_each_answer(trace: str) -> list[bool]:
    """Tell for each answer whether the write-ahead log was written since the one before, and synced last."""
    answers: list[bool] = []
    syncing: dict[str, bool] = {}
    written = dirty = False
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        on_log = bool(re.match(r"\w+\(\d+<[^>]*-wal>", call))
        if call.startswith(("pwrite64(", "write(")) and on_log:
            written = dirty = True
        elif call.startswith(("fsync(", "fdatasync(")):
            if call.endswith("<unfinished ...>"):
                syncing[pid] = on_log
            elif on_log and re.search(r"\) += 0", call):
                dirty = False
        elif re.match(r"<\.\.\. f(data)?sync resumed>\) += 0", call) and syncing.pop(pid, False):
            dirty = False
        elif '"acknowledged ' in call:
            answers.append(written and not dirty)
            written = False
    return answers


def test_reading_a_trace_tells_synced_from_unsynced() -> None:
    write = '7 pwrite64(5</x/auth.db-wal>, "..."..., 24, 32) = 24\n'
    sync = "7 fdatasync(5</x/auth.db-wal>) = 0\n"
    answer = '8 write(1<pipe:[1]>, "acknowledged 0\\n", 15) = 15\n'
    paused = (
        "7 fdatasync(5</x/auth.db-wal> <unfinished ...>\n"
        + answer
        + "7 <... fdatasync resumed>) = 0\n"
        + write.replace("wal", "shm")
        + answer
    )
    assert synced_before_each_answer(write + sync + answer) == [True]
    assert synced_before_each_answer(write + answer) == [False]
    assert synced_before_each_answer(write + sync + write + answer) == [False]
    assert synced_before_each_answer(sync + answer) == [False]
    assert synced_before_each_answer(write + sync.replace("-wal", "") + answer) == [False]
    assert synced_before_each_answer(write + sync.replace("= 0", "= -1 EIO") + answer) == [False]
    assert synced_before_each_answer(write + paused) == [False, False]
    assert synced_before_each_answer(write + paused.replace(answer, "", 1)) == [True]


async def test_every_answer_comes_after_the_fsync_of_its_write(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("CI"):
            pytest.fail("strace is missing: apt-get install strace")
        pytest.skip("strace is not installed, so nobody can see the fsyncs")
    trace = tmp_path / "trace"
    under = (strace, "-f", "-y", "-e", "trace=fsync,fdatasync,write,pwrite64", "-o", str(trace))
    with working("commit", path, under=under) as process:
        assert [hear(process) for _ in range(10)] == [f"acknowledged {number}" for number in range(10)]
        process.wait(30)
    assert synced_before_each_answer(trace.read_text()) == [True] * 10
    events = await store.events_after(BEGINNING, limit=99)
    assert events is not None
    assert len(events) == 10


async def test_kill_under_load_loses_and_halves_nothing(sqlite_backend: SqliteBackend) -> None:
    path = sqlite_backend.path
    store = await sqlite_backend.open()
    await store.commit(Commit(rows=(an_app(),)))
    await store.close()
    acknowledged: dict[str, int] = {}
    latest = 0.0
    for _ in range(5):
        with working("load", path) as process:
            lines = [await asyncio.to_thread(hear, process) for _ in range(150)]
            process.kill()
            assert process.stdout is not None
            lines += [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        for line in lines:
            grant_id, generation, now = line.split()
            acknowledged[grant_id] = int(generation)
            latest = max(latest, float(now))
        # A wall clock that is far behind, so that only the database can know the time.
        store = await sqlite_backend.open(wall=Clock(0.0))
        assert store.now() >= latest
        assert store._reader.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        events = await store.events_after(BEGINNING, limit=1_000_000)
        assert events is not None
        counts: dict[str, int] = {}
        for event in events:
            assert isinstance(event.change, Revocation)
            counts[event.change.id] = counts.get(event.change.id, 0) + 1
        for grant_id, told in acknowledged.items():
            grant = await store.grant(grant_id)
            assert grant is not None
            assert grant.generation >= told
            assert (grant.version, grant.peer) == (grant.generation, str(grant.generation))
            assert counts[grant_id] == grant.generation  # the row and its event, or neither
        await store.close()


# The file


async def test_a123_files_are_readable_by_their_owner_only(store: SqliteStore, path: Path) -> None:
    await store.commit(Commit(rows=(an_app(),)))
    modes = {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in path.parent.iterdir()}
    names = ("auth.db", "auth.db-wal", "auth.db-shm", "auth.db.lock", "auth.db.lock-turn")
    assert modes == dict.fromkeys(names, "0o600")


@pytest.mark.parametrize("name", ["auth.db", "auth.db-wal"])
def test_a123_database_that_others_can_read_is_refused(path: Path, name: str) -> None:
    path.touch(0o600)
    file = path.with_name(name)
    file.touch()
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match=f"chmod 600 .*{name}"):
        asyncio.run(SqliteStore.open(path))


async def test_sqlite_without_what_the_store_needs_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(ConfigurationError, match=r"3\.37 or newer is needed, and this Python has"):
        await SqliteStore.open(path)


def test_database_without_shared_memory_is_refused(path: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(ConfigurationError, match="without shared memory"),
    ):
        file._use_wal(connection, path)


async def test_database_of_a_newer_version_is_refused(store: SqliteStore, path: Path) -> None:
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as newer, newer:
        newer.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('rpz-auth-server', 'm9999_from_the_future', '')"
        )
    with pytest.raises(ConfigurationError, match="newer rpz-auth-server"):
        await SqliteStore.open(path)


def test_database_of_another_program_is_refused(path: Path) -> None:
    path.touch(0o600)
    with contextlib.closing(sqlite3.connect(path)) as foreign, foreign:
        foreign.execute("CREATE TABLE apps (name)")
    with pytest.raises(ConfigurationError, match="another program"):
        asyncio.run(SqliteStore.open(path))


def test_file_that_is_no_database_is_refused(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(ConfigurationError, match="not an SQLite database"):
        asyncio.run(SqliteStore.open(path))


async def test_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere.*No such file"):
        await SqliteStore.open(tmp_path / "nowhere" / "auth.db")


async def test_connections_are_durable_and_strict(store: SqliteStore) -> None:
    for connection in (store._connection, store._reader):
        settings = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
        assert settings == ["wal", 2, 1, 5000]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._reader.execute("DELETE FROM grants")
    tables = store._reader.execute(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
    ).fetchall()
    ours = {name: strict for name, strict in tables if not name.startswith(("sqlite_", "_sqlite_"))}
    assert {"meta", "grants", "audit"} < set(ours)
    assert set(ours.values()) == {1}


async def test_audit_records_are_read_beside_the_event_loop(sqlite_backend: SqliteBackend) -> None:
    store = await sqlite_backend.open()
    await store.commit(Commit(audit=tuple(Audit(actor="a", action=str(number)) for number in range(50))))
    turns = []
    reading = asyncio.create_task(store.audit_records(after=0, limit=1000))
    while not reading.done():
        await asyncio.sleep(0)
        turns.append(reading.done())
    assert len(await reading) == 50
    assert not all(turns)
