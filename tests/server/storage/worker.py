"""A process on a database: `python worker.py <what> <path>`; each line on its input starts a round."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

from rpz_auth.view import Revocation
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from server.storage.build import NOW, a_grant

CANDIDATES = 16


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # one write, unbuffered: what was said was said before a kill


async def race(path: Path) -> None:
    """Open at the same moment as others; then replace each named grant.

    Say which candidates won, and how many conflicted.
    """
    say("ready")
    sys.stdin.readline()
    store = await SqliteStore.open(path)
    say(await store.instance())
    for line in sys.stdin:
        grant = await store.grant(line.strip())
        if grant is None:
            raise LookupError
        candidates = [
            replace(grant, version=2, peer=f"{os.getpid()} {number}") for number in range(CANDIDATES)
        ]
        results = await asyncio.gather(
            *(store.commit(Commit(rows=(candidate,))) for candidate in candidates), return_exceptions=True
        )
        won = [row.peer for row, error in zip(candidates, results, strict=True) if error is None]
        lost = sum(isinstance(error, Conflict) for error in results)
        say(f"{lost},{','.join(won)}")
    await store.close()


async def commit(path: Path) -> None:
    """Commit one event at a time and say so."""
    store = await SqliteStore.open(path)
    for number in range(10):
        await store.commit(Commit(events=(Revocation(str(number), NOW),)))
        say(f"acknowledged {number}")
    await store.close()


async def load(path: Path) -> None:
    """Renew grants, each with an event in the same commit, until killed; say what was acknowledged."""
    store = await SqliteStore.open(path)

    async def renew() -> None:
        grant = a_grant(generation=1)
        await store.commit(Commit(rows=(grant,), events=(Revocation(grant.grant_id, NOW),)))
        while True:
            now = store.now()
            grant = replace(
                grant,
                version=grant.version + 1,
                generation=grant.generation + 1,
                peer=str(grant.generation + 1),
                rotated_at=now,
            )
            await store.commit(Commit(rows=(grant,), events=(Revocation(grant.grant_id, NOW),)))
            say(f"{grant.grant_id} {grant.generation} {now!r}")

    await asyncio.gather(*(renew() for _ in range(CANDIDATES)))


async def announce(path: Path) -> None:
    """Commit an event for each line."""
    store = await SqliteStore.open(path)
    say("ready")
    for line in sys.stdin:
        await store.commit(Commit(events=(Revocation(line.strip(), NOW),)))
        say("committed")
    await store.close()


if __name__ == "__main__":
    work = {f.__name__: f for f in (race, commit, load, announce)}[sys.argv[1]]
    asyncio.run(work(Path(sys.argv[2])))
