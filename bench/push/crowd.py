"""Thousands of watchers on one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from rpz_auth.view import Revocation
from rpz_auth_server.crypto.handles import new_id
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from support.authority import AuthorityProcess

from bench.machine import cpu_seconds, resident_bytes
from bench.push.watcher import Watcher, channels

_EVENTS = 100
_STREAMS_PER_VERIFIER = 900


async def measure(authority: AuthorityProcess, folder: Path, count: int) -> dict[str, Any]:
    """Have watchers come at once, from where they were cut off, and tell all of them the same."""
    pid = authority.process.pid
    store = await SqliteStore.open(authority.data_dir / "rpz-auth.db")
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_callback(store.close)
        connections = [
            channel
            for number, first in enumerate(range(0, count, _STREAMS_PER_VERIFIER))
            for channel in channels(
                cleanup,
                authority.create_verifier(folder / f"crowd-{number}.json"),
                min(_STREAMS_PER_VERIFIER, count - first),
            )
        ]
        cursor = str(await store.cursor())
        memory, began = resident_bytes(pid), time.perf_counter()
        watchers = [Watcher(connections[number % len(connections)], cursor) for number in range(count)]
        await asyncio.gather(*(watcher.follow(0) for watcher in watchers))
        connected, held = time.perf_counter() - began, resident_bytes(pid)
        cpu, began = cpu_seconds(pid), time.perf_counter()
        changes = tuple(Revocation(new_id(), store.now() + 7_000) for _ in range(_EVENTS))
        await store.commit(Commit(events=changes))
        await asyncio.gather(*(watcher.follow(_EVENTS) for watcher in watchers))
        seconds, cpu = time.perf_counter() - began, cpu_seconds(pid) - cpu
    return {
        "watchers": count,
        "turned_away": sum(watcher.turned_away for watcher in watchers),
        "seconds_until_all_follow": connected,
        "bytes_per_watcher": (held - memory) / count,
        "events": _EVENTS,
        "seconds_until_all_were_told": seconds,
        "cpu_microseconds_per_delivery": cpu / (count * _EVENTS) * 1e6,
    }


def rows(found: dict[str, Any]) -> Sequence[Sequence[str]]:
    """What was found, for a table."""
    return [
        [
            f"{found['watchers']:,} watchers on one process",
            (
                f"all follow after {found['seconds_until_all_follow']:.1f} s "
                f"({found['turned_away']} had to come again), "
                f"{found['bytes_per_watcher'] / 1024:.0f} KiB each"
            ),
        ],
        [
            f"… {found['events']} events to all of them",
            (
                f"{found['seconds_until_all_were_told']:.2f} s, "
                f"{found['cpu_microseconds_per_delivery']:.2f} µs of CPU for each event and watcher"
            ),
        ],
    ]
