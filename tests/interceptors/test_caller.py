"""What a handler learns of its caller, and that nobody else does."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import ipaddress
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from rpz_auth.address import UNKNOWN, Peer
from rpz_auth.caller import APP_SUBJECT_PREFIX, CURRENT, Admission, Caller, How, Verdict, caller, peer

APP = "0b0f8a36-6c2f-4a39-9d3d-7d2f2f6f1a10"


def _admission(subject: str = "user-1") -> Admission:
    verdict = Verdict(
        how=How.ACCESS_TOKEN,
        app_id=APP,
        subject=subject,
        scopes=frozenset({"orders.read"}),
        resources=frozenset({"https://orders"}),
        token_id="jti-1",
        expires_at=2000.0,
    )
    address = Peer(ipaddress.ip_address("192.0.2.1"))
    return Admission(address, Caller(verdict, address))


@pytest.fixture(autouse=True)
def _no_call() -> Iterator[None]:
    """Begin and end outside of a call."""
    with pytest.raises(LookupError):
        peer()
    yield
    with pytest.raises(LookupError):
        peer()


def _inside(admission: Admission) -> contextvars.Context:
    context = contextvars.copy_context()
    context.run(CURRENT.set, admission)
    return context


def test_outside_a_call_there_is_neither_caller_nor_peer() -> None:
    with pytest.raises(LookupError, match="inside a handler whose policy demands scopes"):
        caller()
    with pytest.raises(LookupError, match="inside a handler behind the interceptor"):
        peer()


def test_a_call_without_a_credential_has_a_peer_and_no_caller() -> None:
    context = _inside(Admission(UNKNOWN, None))
    assert context.run(peer) is UNKNOWN
    with pytest.raises(LookupError, match="policy demands scopes"):
        context.run(caller)


def test_a_handler_sees_its_caller() -> None:
    admission = _admission()
    found = _inside(admission).run(caller)
    assert found is admission.caller
    assert dataclasses.asdict(found)["verdict"]["token_id"] == "jti-1"
    assert (found.app_id, found.subject, found.scopes) == (APP, "user-1", frozenset({"orders.read"}))
    assert (found.how, found.expires_at) == (How.ACCESS_TOKEN, 2000.0)
    assert (found.peer, _inside(admission).run(peer)) == (admission.peer, admission.peer)


def test_an_api_token_without_an_end_never_expires() -> None:
    verdict = Verdict(
        how=How.API_TOKEN,
        app_id=APP,
        subject=APP_SUBJECT_PREFIX + APP,
        scopes=frozenset(),
        resources=frozenset(),
        token_id="t",
    )
    found = Caller(verdict, UNKNOWN)
    assert (found.expires_at, found.how, found.subject) == (math.inf, "api_token", f"app:{APP}")


def test_r083_nothing_of_a_caller_can_be_changed() -> None:
    admission = _admission()
    for target, name in ((admission, "caller"), (admission.caller, "peer"), (admission.peer, "address")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, None)
    assert admission.caller is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        admission.caller.verdict.subject = "other"  # type: ignore[misc] # that it is refused is the point


def test_a_thread_that_a_handler_starts_sees_no_caller() -> None:
    seen: list[str] = []

    def look() -> None:
        try:
            seen.append(caller().subject)
        except LookupError:
            seen.append("nobody")

    def handler() -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        seen.append(caller().subject)

    _inside(_admission()).run(handler)
    assert seen == ["nobody", "user-1"]


def test_calls_in_many_threads_each_see_their_own_caller() -> None:
    threads = 8
    inside = threading.Barrier(threads)

    def handle(number: int) -> tuple[str, str]:
        def handler() -> tuple[str, str]:
            token = CURRENT.set(_admission(f"user-{number}"))
            first = caller().subject
            inside.wait(10)  # all calls are being handled now
            second = caller().subject
            inside.wait(10)
            CURRENT.reset(token)
            return first, second

        found = handler()
        with pytest.raises(LookupError):
            caller()
        return found

    with ThreadPoolExecutor(threads) as pool:
        # Twice, so that every thread of the pool is used again.
        for _ in range(2):
            assert list(pool.map(handle, range(threads))) == [
                (f"user-{n}", f"user-{n}") for n in range(threads)
            ]


async def test_calls_in_many_tasks_each_see_their_own_caller() -> None:
    tasks = 8
    inside = asyncio.Barrier(tasks)

    async def handle(number: int) -> tuple[str, str]:
        CURRENT.set(_admission(f"user-{number}"))
        first = caller().subject
        await inside.wait()
        return first, caller().subject

    found = await asyncio.gather(*(handle(number) for number in range(tasks)))
    assert found == [(f"user-{n}", f"user-{n}") for n in range(tasks)]
    with pytest.raises(LookupError):
        caller()
