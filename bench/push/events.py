"""A million events through ten verifiers, which agree with the database at the end and have not grown."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import rpz_auth
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rpz_auth.connection import Connection
from rpz_auth.view import Change, Revocation
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from support.authority import AuthorityProcess

from bench.machine import cpu_seconds, resident_bytes
from bench.report import Table

_VERIFIERS = 10
_BATCH = 500
_APPS = 1_000
_APPS_A_BATCH = 20
"""So many events of a batch are of Apps that were locked or unlocked; the others revoke."""
_BEHIND = 2_000
"""Events that a verifier may be behind. The authority keeps 4,096; whoever misses more gets a snapshot."""
_LIFE = 10.0
"""Seconds after which a revocation is forgotten, so that what is live stays the same without end."""
_ROUNDED = 61.0
"""Seconds by which a snapshot may prolong that."""
_LONGEST = 900.0
"""Seconds after which no more events are made, however slow the machine is."""


class _Events:
    """Writes events as other processes of the authority would: into the database that it follows."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._apps = [_app(store.now()) for _ in range(_APPS)]
        self._turn = itertools.cycle(range(_APPS))
        self.forget_at: list[float] = []
        """Of each revocation by its number."""
        self.count = 0

    async def prepare(self) -> None:
        """Have the Apps that will change."""
        await self._store.commit(Commit(rows=tuple(self._apps)))

    async def write(self, *, life: float = _LIFE) -> None:
        """Commit one batch."""
        changed = []
        for place in itertools.islice(self._turn, _APPS_A_BATCH):
            before = self._apps[place]
            self._apps[place] = replace(before, locked=not before.locked, version=before.version + 1)
            changed.append(self._apps[place])
        number, forget_at = len(self.forget_at), self._store.now() + life
        revocations = [Revocation(name(number + n), forget_at) for n in range(_BATCH - _APPS_A_BATCH)]
        self.forget_at += [forget_at] * len(revocations)
        events: tuple[Change, ...] = (*(app.state for app in changed), *revocations)
        await self._store.commit(Commit(rows=tuple(changed), events=events))
        self.count += len(events)

    async def reach(self, connections: Sequence[Connection], number: int) -> None:
        """Wait until all verifiers have learned of a revocation, or may have forgotten it by now.

        Raises:
            SystemExit: One has not, for a minute.
        """
        deadline = time.monotonic() + 60
        while number >= 0 and not all(
            each.view.is_revoked(name(number)) or self._store.now() > self.forget_at[number]
            for each in connections
        ):
            if time.monotonic() > deadline:
                raise SystemExit("a verifier was not told of a revocation")
            await asyncio.sleep(0.002)

    async def check(self, connections: Sequence[Connection]) -> None:
        """Compare what each verifier holds with the database.

        Raises:
            SystemExit: They differ.
        """
        stored, now = await self._store.snapshot(), self._store.now()
        live = {item.id for item in stored.revocations if item.forget_at > now + 1}
        gone = [name(n) for n, forget_at in enumerate(self.forget_at) if forget_at < now - _ROUNDED]
        for connection in connections:
            view = connection.view
            missing = sum(not view.is_revoked(each) for each in live)
            kept = sum(map(view.is_revoked, gone))
            wrong = sum(view.version_of(app.app_id)[1] != app.version for app in stored.apps)
            if missing or kept or wrong or not live or not stored.apps:
                raise SystemExit(
                    f"a verifier does not agree with the database: of {len(live)} live revocations it misses "
                    f"{missing}, of {len(gone)} that ended it holds {kept}, of {len(stored.apps)} Apps "
                    f"{wrong} are in another state"
                )


def name(number: int) -> str:
    """As long as the identifiers that the authority draws."""
    return f"{number:022}"


async def measure(authority: AuthorityProcess, folder: Path, count: int) -> dict[str, Any]:
    """Write events as fast as the slowest verifier takes them in."""
    pid, path = authority.process.pid, authority.create_verifier(folder / "events.json")
    store = await SqliteStore.open(authority.data_dir / "rpz-auth.db")
    try:
        events = _Events(store)
        await events.prepare()
        async with _connected(path) as (connections, snapshots):
            taken = len(snapshots)
            began, cpu = time.perf_counter(), cpu_seconds(pid)
            memory = await _write_many(events, connections, pid, count)
            seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
            taken = len(snapshots) - taken
            await events.check(connections)
    finally:
        await store.close()
    return {
        "events": events.count,
        "verifiers": _VERIFIERS,
        "seconds": seconds,
        "events_per_second": events.count / seconds,
        "cpu_microseconds_per_delivery": cpu / (events.count * _VERIFIERS) * 1e6,
        "snapshots": taken,
        "authority_memory": [each for each, _ in memory],
        "verifiers_memory": [each for _, each in memory],
    }


async def _write_many(
    events: _Events, connections: Sequence[Connection], pid: int, count: int
) -> list[tuple[int, int]]:
    """Return once all verifiers have all of them, with the memory of both ends after each quarter."""
    memory: list[tuple[int, int]] = []
    deadline = time.monotonic() + _LONGEST
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("events", total=count)
        while events.count < count and time.monotonic() < deadline:
            await events.write()
            await events.reach(connections, len(events.forget_at) - _BEHIND)
            bar.update(task, completed=events.count)
            if events.count >= count * (len(memory) + 1) / 4:
                memory.append((resident_bytes(pid), resident_bytes(os.getpid())))
    await events.write(life=3_600)  # whoever has this has all before it
    await events.reach(connections, len(events.forget_at) - 1)
    return memory


def table(found: dict[str, Any]) -> Table:
    """What was found."""
    memory = {
        who: " → ".join(f"{each / 2**20:.0f}" for each in found[f"{who}_memory"])
        for who in ("authority", "verifiers")
    }
    rows = [
        ["verifiers that agree with the database", f"{found['verifiers']} of {found['verifiers']}"],
        ["time", f"{found['seconds']:.0f} s, {found['events_per_second']:,.0f} events/s"],
        ["CPU of the authority", f"{found['cpu_microseconds_per_delivery']:.2f} µs per event and verifier"],
        ["snapshots in place of events", str(found["snapshots"])],
        ["memory of the authority after each quarter", f"{memory['authority']} MiB"],
        ["memory of all verifiers and the writer", f"{memory['verifiers']} MiB"],
    ]
    return Table(
        f"{found['events']:,} events to {found['verifiers']} verifiers",
        ["what", "found"],
        rows,
        f"{_APPS_A_BATCH / _BATCH:.0%} of the events lock or unlock one of {_APPS:,} Apps, the others "
        f"revoke; revocations are forgotten after {_LIFE:.0f} s, so that as many are live at any time. "
        "They are written as fast as the slowest verifier learns of them.",
    )


@asynccontextmanager
async def _connected(path: Path) -> AsyncIterator[tuple[Sequence[Connection], list[None]]]:
    snapshots: list[None] = []
    connections = [rpz_auth.connect(path) for _ in range(_VERIFIERS)]
    try:
        for connection in connections:
            connection.view.follow(lambda changes: snapshots.append(None) if changes is None else None)
            connection.start()
        for connection in connections:
            await asyncio.to_thread(connection.wait, 60)
        yield connections, snapshots
    finally:
        for connection in connections:
            await asyncio.to_thread(connection.close)


def _app(now: float) -> App:
    return App(
        app_id=str(uuid.uuid4()),
        kind=AppKind.BACKEND,
        display_name="an App that is locked and unlocked",
        owner="user:bench",
        created_at=now,
        updated_at=now,
    )
