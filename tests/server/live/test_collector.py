from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rpz_auth.errors import BackendUnavailable
from rpz_auth_server.live.collector import collect_forever


class Store:
    """A store whose rows go in batches, and that fails when told to."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.done = asyncio.Event()

    async def collect(self, *, limit: int, audit_kept: float) -> int:
        assert limit > 0
        assert audit_kept == 90 * 86400
        if not self.answers:
            self.done.set()
            return 0
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("fault", [BackendUnavailable(), ValueError("unexpected")])
async def test_a110_collecting_goes_on_batch_by_batch_and_after_a_fault(fault: Exception) -> None:
    store: Any = Store(500, 20, 0, fault, 3, 0)
    collecting = asyncio.create_task(collect_forever(store, interval=0))
    async with asyncio.timeout(10):
        await store.done.wait()
    assert not collecting.done()
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)
