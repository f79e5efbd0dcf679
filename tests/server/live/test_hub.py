from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rpz_auth.errors import BackendUnavailable
from rpz_auth.view import Revocation
from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.crypto.signing import SigningKeyring
from rpz_auth_server.domain.event import Cursor, Event, StoredSnapshot
from rpz_auth_server.live.hub import Beat, Hub, News
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from rpz_auth_server.storage.writer import unavailable
from server.authority import FakeTime, HeldStore
from server.storage.build import statement
from structlog.testing import capture_logs

TIMEOUT = 20.0
RING = KeyRing({1: b"1" * 32}, minting=1)


class Process:
    """What one process has: a store on the shared file, and a hub."""

    def __init__(self, store: HeldStore, hub: Hub, time: FakeTime) -> None:
        self.store = store
        self.hub = hub
        self.time = time

    async def revoke(self, *ids: str) -> None:
        await self.store.inner.commit(
            Commit(events=tuple(Revocation(name, self.store.now() + 1e6) for name in ids))
        )

    async def called(self, method: str, *, times: int = 1) -> None:
        """Return when a method of the store has been called so often from now on."""
        enough = asyncio.Event()
        left = times

        async def count(*_: Any, **__: Any) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                enough.set()

        self.store.before[method] = count
        async with asyncio.timeout(TIMEOUT):
            await enough.wait()
        del self.store.before[method]


@asynccontextmanager
async def running(path: Path, *, heartbeat_interval: float = 3600) -> AsyncIterator[Process]:
    """A hub whose heartbeat is made by hand unless an interval is given."""
    time = FakeTime()
    store = HeldStore(await SqliteStore.open(path, clock=time.wall, monotonic=time.monotonic))
    signing = SigningKeyring(RING, issuer="https://auth.example", instance=await store.instance())
    hub = Hub(store, signing, heartbeat_interval=heartbeat_interval)
    await hub.start()
    try:
        yield Process(store, hub, time)
    finally:
        await hub.stop()
        await store.inner.close()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(tmp_path / "auth.db") as one:
        yield one


class Follower:
    def __init__(self, hub: Hub, cursor: Cursor | None = None) -> None:
        self._news = hub.news(cursor)

    async def read(self) -> News:
        async with asyncio.timeout(TIMEOUT):
            return await anext(self._news)

    async def is_silent(self) -> bool:
        """Tell that nothing is told now; what was about to be told would be after some turns of the loop."""
        reading = asyncio.ensure_future(anext(self._news))
        for _ in range(20):
            await asyncio.sleep(0)
        silent = not reading.done()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return silent

    async def begin(self) -> News:
        """Take the snapshot and the first heartbeat."""
        first = await self.read()
        assert isinstance(first.content, StoredSnapshot)
        beat = await self.read()
        assert isinstance(beat.content, Beat)
        assert beat.cursor == first.cursor
        return first


def ids(content: object) -> list[str]:
    assert isinstance(content, Sequence), content
    found = []
    for event in content:
        assert isinstance(event, Event)
        assert isinstance(event.change, Revocation)
        found.append(event.change.id)
    return found


async def test_follower_is_told_a_snapshot_a_heartbeat_and_then_changes(process: Process) -> None:
    await process.revoke("before")
    follower = Follower(process.hub)
    first = await follower.begin()
    assert isinstance(first.content, StoredSnapshot)
    assert [item.id for item in first.content.revocations] == ["before"]
    await process.revoke("a", "b")
    told = await follower.read()
    assert ids(told.content) == ["a", "b"]
    assert told.cursor == await process.store.cursor()
    assert process.hub.view.is_revoked("b")


async def test_a131_two_hubs_tell_all_followers_everything_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "auth.db"
    total = 400
    async with AsyncExitStack() as cleanup:
        one = await cleanup.enter_async_context(running(path))
        two = await cleanup.enter_async_context(running(path))
        followers = [Follower(process.hub) for process in (one, two) for _ in range(3)]
        starts = [await follower.begin() for follower in followers]
        assert len({start.cursor for start in starts}) == 1

        async def read_all(follower: Follower) -> list[str]:
            found: list[str] = []
            before = starts[0].cursor
            while len(found) < total:
                news = await follower.read()
                assert isinstance(news.content, tuple | list)
                places = [event.cursor for event in news.content]
                assert places == sorted(places)
                assert places[0].sequence == before.sequence + 1
                before = news.cursor
                assert before == places[-1]
                found += ids(news.content)
            return found

        async def write(process: Process, prefix: str) -> None:
            for number in range(total // 4):
                await process.revoke(f"{prefix}{number}")

        results = await asyncio.gather(
            *(read_all(follower) for follower in followers),
            *(write(process, prefix) for process, prefix in ((one, "a"), (one, "b"), (two, "c"), (two, "d"))),
        )
        told = [result for result in results if result is not None]
        stored = await one.store.inner.events_after(starts[0].cursor, limit=total + 1)
        assert stored is not None
        assert told == [ids(stored)] * len(followers)
        assert len(set(ids(stored))) == total
        # It was a race: neither process wrote all of its events in one run.
        assert [name[0] in "ab" for name in ids(stored)] != sorted(
            (name[0] in "ab" for name in ids(stored)), reverse=True
        )
        for process in (one, two):
            assert all(process.hub.view.is_revoked(name) for name in ids(stored))


async def test_two_tasks_that_read_the_same_events_tell_them_once(process: Process) -> None:
    follower = Follower(process.hub)
    await follower.begin()
    both = asyncio.Event()
    readers = 0

    async def together() -> None:
        nonlocal readers
        readers += 1
        if readers >= 2:
            both.set()
        await both.wait()

    process.store.after["events_after"] = together
    await process.revoke("a", "b")
    await asyncio.gather(process.hub._advance(), process.hub._advance())
    await process.revoke("c")
    await process.hub._advance()
    assert ids((await follower.read()).content) == ["a", "b", "c"]
    assert [event.cursor.sequence for event in process.hub._events] == [1, 2, 3]


async def test_follower_that_is_slow_is_told_at_once_what_it_missed(process: Process) -> None:
    follower = Follower(process.hub)
    await follower.begin()
    for number in range(10):
        await process.revoke(f"{number}")
    await process.hub._advance()
    assert ids((await follower.read()).content) == [str(number) for number in range(10)]


async def test_follower_that_is_too_slow_gets_a_snapshot(process: Process) -> None:
    follower = Follower(process.hub)
    await follower.begin()
    names = [str(number) for number in range(5000)]
    for start in range(0, len(names), 500):
        await process.revoke(*names[start : start + 500])
        await process.hub._advance()
    told = await follower.read()
    assert isinstance(told.content, StoredSnapshot)
    assert {item.id for item in told.content.revocations} == set(names)
    assert told.cursor == await process.store.cursor()
    await process.revoke("after")
    assert ids((await follower.read()).content) == ["after"]


async def test_follower_that_comes_back_gets_all_it_missed_however_much(process: Process) -> None:
    first = await Follower(process.hub).begin()
    names = [str(number) for number in range(5000)]
    for start in range(0, len(names), 500):
        await process.revoke(*names[start : start + 500])
    follower = Follower(process.hub, first.cursor)
    found: list[str] = []
    while not isinstance((news := await follower.read()).content, Beat):
        found += ids(news.content)
    assert found == names
    assert news.cursor == await process.store.cursor()


async def test_heartbeat_is_told_after_its_write_and_after_what_was_committed_before(
    process: Process,
) -> None:
    follower = Follower(process.hub)
    await follower.begin()
    writing, written = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        writing.set()
        await written.wait()
        await process.revoke("before the beat")

    process.hub._tasks[0].cancel()  # what follows the events; the heartbeat must not rely on it
    process.store.before["heartbeat"] = hold
    process.time.passed += 5
    pulse = asyncio.ensure_future(process.hub._pulse())
    await writing.wait()
    assert await follower.is_silent()
    follower = Follower(process.hub, await process.store.cursor())
    process.store.before.clear()
    assert isinstance((await follower.read()).content, Beat)
    written.set()
    await pulse
    assert ids((await follower.read()).content) == ["before the beat"]
    assert process.hub._beat == Beat(process.store.now())


async def test_events_without_end_do_not_hold_up_heartbeats(process: Process) -> None:
    follower = Follower(process.hub)
    await follower.begin()
    process.time.passed += 1
    await process.hub._pulse()
    told = []
    for number in range(3):
        await process.revoke(f"event {number}")
        await process.hub.catch_up()
        told.append((await follower.read()).content)
    assert any(isinstance(content, Beat) for content in told)


async def test_catching_up_ends_with_what_was_committed_before_whatever_comes_meanwhile(
    process: Process,
) -> None:
    process.hub._tasks[0].cancel()  # what follows the events would read them, too
    reads = 0

    async def commit_another(*_: Any, **__: Any) -> None:
        nonlocal reads
        reads += 1
        if reads < 5:
            await process.revoke(f"event {reads}")

    process.store.before["events_after"] = commit_another
    await process.revoke("event 0")
    await process.hub.catch_up()
    assert reads == 1


async def test_first_heartbeat_covers_all_that_was_committed_before_it(process: Process) -> None:
    """What is committed while a follower comes is told before the heartbeat, or is younger than it."""

    async def commit_meanwhile(*_: Any, **__: Any) -> None:
        process.store.before.clear()
        process.time.passed += 1
        await process.revoke("meanwhile")

    cursor = await process.store.cursor()
    for start, method in ((None, "snapshot"), (cursor, "events_after"), (None, "heartbeat")):
        process.store.before[method] = commit_meanwhile
        follower = Follower(process.hub, start)
        news = await follower.read()
        told_first = (
            [item.id for item in news.content.revocations]
            if isinstance(news.content, StoredSnapshot)
            else ids(news.content)
        )
        assert "meanwhile" in told_first
        beat = await follower.read()
        assert isinstance(beat.content, Beat)


async def test_store_that_takes_no_writes_gives_no_heartbeat_and_the_view_goes_stale(
    tmp_path: Path,
) -> None:
    async with running(tmp_path / "auth.db", heartbeat_interval=0.01) as process:
        follower = Follower(process.hub)
        await follower.begin()
        process.store.faults["heartbeat"] = unavailable(sqlite3.OperationalError("database or disk is full"))
        with capture_logs() as logged:
            await process.called("heartbeat", times=5)
        assert {"reason": "database or disk is full"}.items() <= logged[0].items()
        process.time.passed += 5 * 0.01 - 0.001
        assert process.hub.view.is_fresh
        process.time.passed += 0.002
        assert not process.hub.view.is_fresh
        assert await follower.is_silent()
        process.store.faults.clear()
        await process.hub._pulse()
        assert process.hub.view.is_fresh
        follower = Follower(process.hub, await process.store.cursor())
        assert (await follower.read()).content == Beat(process.store.now())


async def test_hub_goes_on_after_a_fault_that_nobody_expected(tmp_path: Path) -> None:
    async with running(tmp_path / "auth.db", heartbeat_interval=0.01) as process:
        follower = Follower(process.hub)
        await follower.begin()
        process.store.faults["events_after"] = ValueError("an event that cannot be read")
        called = asyncio.ensure_future(process.called("events_after"))
        await process.revoke("a")
        await called
        process.store.faults.clear()
        while isinstance((news := await follower.read()).content, Beat):
            pass
        assert ids(news.content) == ["a"]
        assert process.hub.view.is_revoked("a")
        assert all(not task.done() for task in process.hub._tasks)


async def test_hub_ends_its_heartbeats_once_the_database_was_moved(tmp_path: Path) -> None:
    async with running(tmp_path / "auth.db", heartbeat_interval=0.01) as process:
        assert not process.hub.moved.is_set()
        await process.store.inner._write(statement("UPDATE meta SET moved_to = 'elsewhere'"))
        async with asyncio.timeout(TIMEOUT):
            await process.hub.moved.wait()
        process.time.passed += 1
        assert not process.hub.view.is_fresh


async def test_hub_that_only_listens_ends_once_the_database_was_moved(tmp_path: Path) -> None:
    """Its followers would hear of nothing that is revoked on the other database until the next heartbeat."""
    async with running(tmp_path / "auth.db", heartbeat_interval=3600) as process:
        await process.store.inner._write(statement("UPDATE meta SET moved_to = 'elsewhere'"))
        async with asyncio.timeout(TIMEOUT):
            await process.hub.moved.wait()


async def test_hub_does_not_start_on_a_store_that_takes_no_writes(tmp_path: Path) -> None:
    store = HeldStore(await SqliteStore.open(tmp_path / "auth.db"))
    store.faults["heartbeat"] = BackendUnavailable()
    signing = SigningKeyring(RING, issuer="https://auth.example", instance=await store.instance())
    hub = Hub(store, signing, heartbeat_interval=1)
    with pytest.raises(BackendUnavailable):
        await hub.start()
    await hub.stop()
    await store.inner.close()


async def test_everybody_is_told_when_another_database_stands_in_place_of_the_old(
    tmp_path: Path, process: Process
) -> None:
    """The other is behind the first, so that its places do not compare with those that followers hold."""
    await process.revoke("old")
    for _ in range(20):
        await process.revoke("x")
    follower = Follower(process.hub)
    await follower.begin()
    old = process.store.inner
    other = await SqliteStore.open(
        tmp_path / "other.db", clock=process.time.wall, monotonic=process.time.monotonic
    )
    await other.commit(Commit(events=(Revocation("new", process.store.now() + 1e6),)))
    process.store.inner = other
    await process.hub._advance()
    told = await follower.read()
    assert isinstance(told.content, StoredSnapshot)
    assert [item.id for item in told.content.revocations] == ["new"]
    assert told.cursor == await other.cursor()
    # What was revoked in the lost one stays revoked here.
    assert process.hub.view.is_revoked("old")
    assert process.hub.view.is_revoked("new")
    await process.revoke("later")
    await process.hub._advance()
    assert ids((await follower.read()).content) == ["later"]
    process.store.inner = old
    await other.close()


async def test_dismissed_followers_have_heard_everything(process: Process) -> None:
    waiting, late = Follower(process.hub), Follower(process.hub)
    await waiting.begin()
    reading = asyncio.ensure_future(waiting.read())
    await asyncio.sleep(0)
    process.hub.dismiss()
    with pytest.raises(StopAsyncIteration):
        await reading
    await late.begin()
    with pytest.raises(StopAsyncIteration):
        await late.read()
