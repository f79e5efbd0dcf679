from __future__ import annotations

import asyncio

import pytest
from rpz_auth.errors import TokenInvalid
from rpz_auth_server.domain.refusal import ClientInvalid
from rpz_auth_server.flows import turns
from rpz_auth_server.flows.turns import Turns


async def test_guessers_wait_and_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "HELD_FOR", 3600)
    monkeypatch.setattr(turns, "MOST", 2)
    guessers = Turns()
    held = [asyncio.create_task(guessers.wait(TokenInvalid())) for _ in range(2)]
    await asyncio.sleep(0)
    assert guessers.waiting == 2
    await guessers.wait(TokenInvalid())
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    assert guessers.waiting == 0


async def test_a106_guesser_who_waits_keeps_nothing_of_what_its_call_has_used() -> None:
    guessers, refusal = Turns(), TokenInvalid()
    refusal.__context__ = ClientInvalid()
    with pytest.raises(TokenInvalid):
        raise refusal
    held = asyncio.create_task(guessers.wait(refusal))
    await asyncio.sleep(0)
    assert guessers.waiting == 1
    assert refusal.__traceback__ is None
    assert refusal.__context__ is None
    held.cancel()


async def test_a106_guessers_are_answered_one_by_one_however_many_guess_at_once() -> None:
    guessers = Turns()

    def begin() -> float:
        guessers.waiting += 1
        return guessers.next()

    waits = [begin() for _ in range(1001)]
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(turns.HELD_FOR, abs=0.1)
    assert waits[-1] == pytest.approx(turns.HELD_FOR + 1000 * turns.BETWEEN, abs=0.5)


async def test_a106_guessers_who_do_not_wait_for_their_answers_make_nobody_wait_longer() -> None:
    guessers = Turns()
    for _ in range(10):
        given_up = [asyncio.create_task(guessers.wait(TokenInvalid())) for _ in range(100)]
        await asyncio.sleep(0)
        assert guessers.waiting == 100
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
    assert guessers.waiting == 0
    assert guessers.next() == pytest.approx(turns.HELD_FOR, abs=0.1)
