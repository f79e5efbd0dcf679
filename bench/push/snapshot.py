"""What a snapshot of very many revocations and whitelists weighs, at both ends."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import rpz_auth
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz_auth.view import Revocation
from rpz_auth_server.crypto.handles import new_id
from rpz_auth_server.domain.app import App, AppKind
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from support.authority import AuthorityProcess

from bench.machine import resident_bytes
from bench.push.watcher import Watcher, channels

_GET_STANDING = "/rpz.auth.v1.VerificationService/GetStanding"
_BATCH = 1_000
_MEGA = 2**20
_LONGEST = 300.0


async def measure(
    authority: AuthorityProcess, folder: Path, revocations: int, whitelists: int
) -> dict[str, Any]:
    """Fill a database under a running authority, and take the first snapshot of it."""
    pid, path = authority.process.pid, authority.create_verifier(folder / "snapshot.json")
    empty = resident_bytes(pid)
    store = await SqliteStore.open(authority.data_dir / "rpz-auth.db")
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_callback(store.close)
        for start in range(0, whitelists, _BATCH):
            apps = tuple(_app(start + number, store.now()) for number in range(_BATCH))
            await store.commit(Commit(rows=apps, events=tuple(app.state for app in apps)))
        for _ in range(0, revocations, _BATCH):
            changes = tuple(Revocation(new_id(), store.now() + 7_000) for _ in range(_BATCH))
            await store.commit(Commit(events=changes))
        (channel,) = channels(cleanup, path, 1)
        # Answers once all that was committed is taken over.
        await channel.unary_unary(_GET_STANDING)(pb.GetStandingRequest().SerializeToString())
        watcher, first = await _take(channel)
        _, again = await _take(channel)
        full = resident_bytes(pid)
    verifier = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
        [sys.executable, "-c", "import bench.push.snapshot as it; it.verify()"],
        input=pickle.dumps(str(path)),
        stdout=subprocess.PIPE,
        check=True,
    )
    return {
        "revocations": revocations,
        "whitelists": whitelists,
        "bytes": watcher.bytes,
        "seconds_for_the_first": first,
        "seconds_for_the_next": again,
        "authority_memory_empty": empty,
        "authority_memory_full": full,
        **json.loads(verifier.stdout),
    }


async def _take(channel: Any) -> tuple[Watcher, float]:
    watcher, began = Watcher(channel), time.perf_counter()
    await asyncio.wait_for(watcher.follow(0), _LONGEST)
    return watcher, time.perf_counter() - began


def verify() -> None:
    """Take a snapshot as a service does, and say what that took; run in a process of its own."""
    connection = rpz_auth.connect(pickle.load(sys.stdin.buffer))  # noqa: S301 - our own process's
    before, began = resident_bytes(os.getpid()), time.perf_counter()
    connection.start()
    connection.wait(_LONGEST)
    found = {
        "verifier_seconds": time.perf_counter() - began,
        "verifier_memory": resident_bytes(os.getpid()) - before,
    }
    connection.close()
    print(json.dumps(found))


def rows(found: dict[str, Any]) -> Sequence[Sequence[str]]:
    """What was found, for a table."""
    empty, full = (found[f"authority_memory_{name}"] / _MEGA for name in ("empty", "full"))
    return [
        [
            f"snapshot of {found['revocations']:,} revocations and {found['whitelists']:,} whitelists",
            (
                f"{found['bytes'] / _MEGA:.1f} MiB; who asks first has it after "
                f"{found['seconds_for_the_first']:.2f} s, others who share it after "
                f"{found['seconds_for_the_next']:.2f} s"
            ),
        ],
        [
            "… at a verifier",
            f"{found['verifier_seconds']:.1f} s until it decides, {found['verifier_memory'] / _MEGA:.0f} MiB",
        ],
        [
            "… memory of the authority without and with them, and their snapshot kept for others",
            f"{empty:.0f} → {full:.0f} MiB",
        ],
    ]


def _app(number: int, now: float) -> App:
    return App(
        app_id=str(uuid.uuid4()),
        kind=AppKind.BACKEND,
        display_name=f"app {number}",
        owner="user:bench",
        whitelist=(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",),
        created_at=now,
        updated_at=now,
    )
