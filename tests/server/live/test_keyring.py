from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from rpz_auth_server.crypto.keyring import KeyRing
from rpz_auth_server.live.keyring import follow_keyring


async def test_ring_is_taken_over_when_its_file_changes_to_another_that_is_one(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    ring = KeyRing.create(path)
    better = ring.with_new_key(mints_from=0)
    following = asyncio.ensure_future(follow_keyring(path, ring, interval=0))

    async def numbers() -> tuple[int, ...]:
        for _ in range(5):  # in each turn of the loop it looks once
            await asyncio.sleep(0)
        return ring.numbers

    path.write_text("{")
    assert await numbers() == (1,)
    better.save(path)
    assert await numbers() == (1, 2)
    path.unlink()
    assert await numbers() == (1, 2)
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
