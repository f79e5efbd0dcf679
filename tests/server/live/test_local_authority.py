from __future__ import annotations

import asyncio

import pytest
from rpz_auth.errors import BackendUnavailable
from rpz_auth.question import StandingQuestion
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


@pytest.mark.parametrize("question", [StandingQuestion(app_ids=("app",)), StandingQuestion(ids=("token",))])
async def test_what_its_own_view_does_not_know_of_apps_and_tokens_nobody_tells_it(
    authority: TestAuthority, question: StandingQuestion
) -> None:
    with pytest.raises(BackendUnavailable):
        await LocalAuthority(authority.authority).ask_async(question)
