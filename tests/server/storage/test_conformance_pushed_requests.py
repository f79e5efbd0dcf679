"""What every store must do with authorization requests that were sent ahead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from rpz_auth_server.domain.pushed_request import use
from rpz_auth_server.domain.refusal import Conflict
from rpz_auth_server.storage.store import Commit, Store
from server.storage.build import NOW, a_pushed_request, new_id
from support.clock import Clock

if TYPE_CHECKING:
    from server.storage.conftest import Backend


async def test_pushed_request_comes_back_as_it_was_written(store: Store) -> None:
    pushed = a_pushed_request()
    assert await store.pushed_request(pushed.request_id) is None
    await store.commit(Commit(rows=(pushed,)))
    assert await store.pushed_request(pushed.request_id) == pushed
    used = use(pushed, NOW + 1)
    await store.commit(Commit(rows=(used,)))
    assert await store.pushed_request(pushed.request_id) == used


async def test_r200_a128_of_simultaneous_uses_one_is_written(store: Store) -> None:
    pushed = a_pushed_request()
    await store.commit(Commit(rows=(pushed,)))
    uses = [store.commit(Commit(rows=(use(pushed, NOW + number),))) for number in range(8)]
    outcomes = await asyncio.gather(*uses, return_exceptions=True)
    assert sorted(map(type, outcomes), key=str) == sorted([type(None), *[Conflict] * 7], key=str)


async def test_an_apps_requests_are_counted_until_they_expire(backend: Backend) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    pushed = [a_pushed_request(expires_at=NOW + number) for number in range(3)]
    await store.commit(Commit(rows=(*pushed, a_pushed_request(app_id=new_id()))))
    wall.time += 1
    assert await store.count_pushed_requests(pushed[0].app_id) == 1
    assert await store.count_pushed_requests("nobody's") == 0


@pytest.mark.parametrize("used_at", [None, NOW])
async def test_a110_expired_requests_are_collected_used_or_not(
    backend: Backend, used_at: float | None
) -> None:
    wall = Clock(NOW)
    store = await backend.open(wall=wall)
    gone = [a_pushed_request(expires_at=NOW + 10, used_at=used_at) for _ in range(3)]
    kept = a_pushed_request(expires_at=NOW + 11, used_at=used_at)
    await store.commit(Commit(rows=(*gone, kept)))
    wall.time += 10
    while await store.collect(limit=2):
        pass
    assert [await store.pushed_request(row.request_id) for row in (*gone, kept)] == [None, None, None, kept]
