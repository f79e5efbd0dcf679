from __future__ import annotations

import asyncio

import pytest
from rpz_auth.decide import StandingQuestion
from rpz_auth.errors import BackendUnavailable
from rpz_auth_server.live.local_authority import LocalAuthority
from server.authority import TestAuthority


async def test_a_thread_that_asks_after_the_authority_has_stopped_gets_no_answer(
    authority: TestAuthority,
) -> None:
    async def make() -> LocalAuthority:
        return LocalAuthority(authority.authority)

    local = await asyncio.to_thread(asyncio.run, make())  # in a loop that is closed by now
    with pytest.raises(BackendUnavailable):
        local.ask(StandingQuestion())
    running = await make()
    assert await asyncio.to_thread(running.ask, StandingQuestion()) == await running.ask_async(
        StandingQuestion()
    )
