from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rpz_auth.address import Peer, parse_address
from rpz_auth.errors import BackendUnavailable
from rpz_auth_server.domain.limits import Limits
from rpz_auth_server.domain.refusal import ClientInvalid, RateLimited, RightsInsufficient
from rpz_auth_server.flows.limits import Limiter
from rpz_auth_server.live.limiter import Sharing
from server.authority import HeldStore
from server.storage.build import NOW
from server.storage.conftest import PostgresBackend, SqliteBackend
from support.clock import Clock
from support.postgres import PostgresServer

PEER = Peer(parse_address("198.51.100.1"))
LIMITS = Limits(failures=0, peer_failures=8, app_failures=0, uses=8)


class Process:
    """One of several on a database."""

    def __init__(self, store: Any, limits: Limits = LIMITS) -> None:
        self.store = store
        self.limiter = Limiter(limits, store.now)
        self.sharing = Sharing(store, self.limiter)

    def fails(self, times: int) -> int:
        """How many of so many guesses were looked at."""
        looked_at = 0
        for number in range(times):
            try:
                with self.limiter.guarded(str(number), PEER):
                    looked_at += 1
                    _refuse()
            except (ClientInvalid, RateLimited):
                continue
        return looked_at


def _refuse() -> None:
    raise ClientInvalid


class Processes:
    def __init__(self, backend: SqliteBackend) -> None:
        self.backend = backend
        self.time = Clock(NOW)

    async def start(self, limits: Limits = LIMITS) -> Process:
        return Process(HeldStore(await self.backend.open(wall=self.time)), limits)


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(SqliteBackend(tmp_path))


async def test_r131_budget_holds_over_all_processes(processes: Processes) -> None:
    first, second = await processes.start(), await processes.start()
    assert first.fails(4) == 4
    assert second.fails(3) == 3
    await first.sharing.share()
    await second.sharing.share()
    assert second.fails(5) == 1
    await second.sharing.share()
    await first.sharing.share()
    assert first.fails(5) == 0
    # One that starts later knows it as well.
    third = await processes.start()
    await third.sharing.share()
    assert third.fails(5) == 0
    await processes.backend.close()


async def test_r131_name_that_no_database_takes_does_not_end_what_processes_tell_each_other(
    postgres: PostgresServer,
) -> None:
    """Whoever is guessed at is named by strangers; on PostgreSQL no text has a NUL."""
    limits, backend = Limits(failures=2, peer_failures=8), PostgresBackend(postgres.create_database())
    first, second = [Process(await backend.open(), limits) for _ in range(2)]
    for _ in range(2):
        with pytest.raises(ClientInvalid), first.limiter.guarded("user \0", PEER):
            _refuse()
        with pytest.raises(RightsInsufficient), first.limiter.guarded_against_misuse("app", "\0"):
            raise RightsInsufficient
    await first.sharing.share()
    await second.sharing.share()
    with pytest.raises(RateLimited), second.limiter.guarded("user \0", PEER):
        pass
    with pytest.raises(RateLimited), second.limiter.guarded_against_misuse("app", "\0"):
        pass
    await backend.close()


async def test_what_was_charged_while_it_was_shared_is_not_lost(processes: Processes) -> None:
    first, second = await processes.start(), await processes.start()
    assert first.fails(3) == 3

    async def fail_meanwhile(*_: object, **__: object) -> None:
        assert first.fails(2) == 2

    first.store.before["share_levels"] = fail_meanwhile
    await first.sharing.share()
    first.store.before.clear()
    await second.sharing.share()
    assert second.fails(9) == 5
    await second.sharing.share()
    await first.sharing.share()
    await second.sharing.share()
    assert (first.fails(1), second.fails(1)) == (0, 0)
    await processes.backend.close()


async def test_r128_database_that_is_down_loses_no_count_and_every_process_keeps_its_own(
    processes: Processes,
) -> None:
    first, second = await processes.start(), await processes.start()
    first.store.faults["share_levels"] = BackendUnavailable()
    assert first.fails(9) == 8
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await first.sharing.share()
    assert first.fails(1) == 0
    first.store.faults.clear()
    await first.sharing.share()
    await second.sharing.share()
    assert second.fails(1) == 0
    await processes.backend.close()


async def test_a110_traffic_writes_nothing_and_refused_calls_neither(processes: Processes) -> None:
    process = await processes.start()
    for number in range(1000):
        process.limiter.take_use(f"grant-{number}")
    assert process.limiter.untold(limit=10_000) == []
    assert process.fails(1000) == 8
    await process.sharing.share()
    rows = process.store.inner._reader.execute("SELECT key, charged FROM limits").fetchall()
    assert rows == [("peer 198.51.100.1", 8.0)]
    assert process.fails(1000) == 0
    assert process.limiter.untold(limit=10_000) == []
    await processes.backend.close()


async def test_shared_level_leaks_away_and_its_row_with_it(processes: Processes) -> None:
    first, second = await processes.start(), await processes.start()
    first.fails(8)
    await first.sharing.share()
    await second.sharing.share()
    processes.time.time += 8
    assert (first.fails(2), second.fails(2)) == (1, 1)
    await first.sharing.share()
    processes.time.time += 3600
    for _ in range(8):
        first.limiter.take_use("one")
    await first.sharing.share()
    rows = first.store.inner._reader.execute("SELECT key FROM limits").fetchall()
    assert rows == [("grant one",)]
    await processes.backend.close()


async def test_process_that_is_set_up_otherwise_passes_over_what_it_does_not_limit(
    processes: Processes,
) -> None:
    first = await processes.start()
    second = await processes.start(Limits(failures=0, peer_failures=0))
    first.fails(8)
    await first.sharing.share()
    await second.sharing.share()
    assert second.fails(20) == 20
    await processes.backend.close()
