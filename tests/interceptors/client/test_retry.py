"""Renewing credentials over real channels to a guarded service, on both stacks, retried and not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
import rpz_auth.aio
from rpz_auth.client.credential import Header
from rpz_auth.client.renewing import Obtained, RenewingToken
from rpz_auth.errors import RenewalFailed, SignInRequired
from rpz_auth.testing import FakeAuthority

RESOURCE = "https://orders.example"
WHO, OWN_REASONS, STREAM = "/a.B/Who", "/a.B/OwnReasons", "/a.B/Stream"
LOCAL = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
HEADERS: list[Header] = ["authorization", "x-rpz-auth"]


class Minting(RenewingToken):
    """Renews at once, at the false authority of the service."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.time = 0.0
        super().__init__(clock=lambda: self.time)
        self.authority = authority
        self.resource = RESOURCE
        self.minted: list[rpz_auth.AccessToken] = []
        self.failure: RenewalFailed | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    def _obtain(self) -> Obtained:
        self.meanwhile()
        if self.failure is not None:
            raise self.failure
        self.minted.append(self.authority.access_token(resource=self.resource, scopes=["x"]))
        return Obtained(self.minted[-1].token, self.time, 7200.0)

    def grow_old(self) -> None:
        self.time += 60.0

    def revoke(self) -> None:
        self.authority.revoke(self.minted[-1])


class Service(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.served = 0

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        def who(_request: bytes, _context: grpc.ServicerContext) -> bytes:
            self.served += 1
            return rpz_auth.caller().verdict.token_id.encode()

        def own_reasons(_request: bytes, context: grpc.ServicerContext) -> bytes:
            self.served += 1
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "after half of the work")
            raise AssertionError

        def stream(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
            yield b"1"

        match details.method:
            case "/a.B/Who":
                return grpc.unary_unary_rpc_method_handler(who)
            case "/a.B/OwnReasons":
                return grpc.unary_unary_rpc_method_handler(own_reasons)
            case "/a.B/Stream":
                return grpc.unary_stream_rpc_method_handler(stream)
            case _:
                return None


class Calls(grpc.ServerInterceptor):
    """Counts what arrives, refused or not, and can hold it up."""

    def __init__(self) -> None:
        self.seen = 0
        self.gate = threading.Event()
        self.gate.set()

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        self.seen += 1
        assert self.gate.wait(20)
        return continuation(details)


class Running:
    def __init__(self, target: str, service: Service, calls: Calls, authority: FakeAuthority) -> None:
        self.target = target
        self.calls = calls
        self.service = service
        self.credential = Minting(authority)


@pytest.fixture
def running() -> Iterator[Running]:
    authority, service = FakeAuthority(), Service()
    policies = {path: rpz_auth.scopes("x") for path in (WHO, OWN_REASONS, STREAM)}
    auth = rpz_auth.AuthInterceptor(authority, resource=RESOURCE, policies=policies)
    calls = Calls()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[service], interceptors=[calls, auth])
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    )
    with auth:
        server.start()
        yield Running(f"127.0.0.1:{port}", service, calls, authority)
        server.stop(None).wait()


def channel(running: Running, *, retry: bool = True, header: Header = "authorization") -> grpc.Channel:
    plain = rpz_auth.secure_channel(running.target, running.credential, header=header, tls=LOCAL)
    return grpc.intercept_channel(plain, rpz_auth.StaleTokenRetry(running.credential)) if retry else plain


def aio_channel(
    running: Running, *, retry: bool = True, header: Header = "authorization"
) -> grpc.aio.Channel:
    interceptors = [rpz_auth.aio.StaleTokenRetry(running.credential)] if retry else []
    return rpz_auth.aio.secure_channel(
        running.target, running.credential, header=header, tls=LOCAL, interceptors=interceptors
    )


def unary(opened: Any, path: str = WHO) -> Any:
    return opened.unary_unary(path)


async def call(running: Running, stack: str, path: str = WHO, **options: Any) -> Any:
    """One call on a channel of its own; the error if there is one."""
    try:
        if stack == "sync":
            with channel(running, **options) as opened:
                return await asyncio.to_thread(unary(opened, path), b"", timeout=20)
        async with aio_channel(running, **options) as opened:
            return await unary(opened, path)(b"", timeout=20)
    except (grpc.RpcError, rpz_auth.RpzAuthError) as error:
        return error


both_stacks = pytest.mark.parametrize("stack", ["sync", "asyncio"])


@both_stacks
@pytest.mark.parametrize("header", HEADERS)
async def test_the_token_is_obtained_once_and_sent_in_the_chosen_header(
    running: Running, stack: str, header: Header
) -> None:
    first = await call(running, stack, header=header)
    assert first == await call(running, stack, header=header, retry=False)
    assert len(running.credential.minted) == 1


@both_stacks
async def test_a_stale_token_costs_one_repetition_and_no_failure(running: Running, stack: str) -> None:
    first = await call(running, stack)
    running.credential.grow_old()
    running.credential.revoke()
    second = await call(running, stack)
    assert isinstance(second, bytes)
    assert second != first
    assert (len(running.credential.minted), running.service.served) == (2, 2)


@both_stacks
async def test_without_the_interceptor_the_call_fails(running: Running, stack: str) -> None:
    await call(running, stack)
    running.credential.grow_old()
    running.credential.revoke()
    failed = await call(running, stack, retry=False)
    assert rpz_auth.reason_of(failed) is rpz_auth.Reason.TOKEN_INVALID
    assert len(running.credential.minted) == 1


@both_stacks
async def test_a_fresh_token_that_is_refused_is_not_repeated(running: Running, stack: str) -> None:
    await call(running, stack)
    running.credential.revoke()
    seen = running.calls.seen
    assert (await call(running, stack)).code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(running.credential.minted) == 1
    assert running.calls.seen == seen + 1


@both_stacks
async def test_a_first_token_that_is_refused_is_not_repeated(running: Running, stack: str) -> None:
    running.credential.resource = "https://elsewhere.example"
    assert (await call(running, stack)).code() is grpc.StatusCode.UNAUTHENTICATED
    assert running.calls.seen == 1


@both_stacks
async def test_a_service_that_refuses_every_token_causes_no_storm(running: Running, stack: str) -> None:
    await call(running, stack)
    running.credential.grow_old()
    running.credential.revoke()
    running.credential.resource = "https://elsewhere.example"
    for _ in range(5):
        assert (await call(running, stack)).code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(running.credential.minted) == 2
    # The first call, one that was repeated, and four that were not.
    assert running.calls.seen == 1 + 2 + 4


@both_stacks
async def test_what_a_handler_refuses_is_not_repeated(running: Running, stack: str) -> None:
    await call(running, stack)
    running.credential.grow_old()
    assert (await call(running, stack, OWN_REASONS)).code() is grpc.StatusCode.UNAUTHENTICATED
    assert (running.service.served, len(running.credential.minted)) == (2, 1)


@both_stacks
async def test_an_ended_grant_is_raised_as_what_it_is(running: Running, stack: str) -> None:
    running.credential.failure = SignInRequired()
    assert isinstance(await call(running, stack), SignInRequired)
    plain = await call(running, stack, retry=False)
    assert plain.code() is grpc.StatusCode.UNAVAILABLE
    assert "sign in again" in plain.details()


@both_stacks
async def test_a_grant_that_ended_while_its_token_was_held_is_raised_too(
    running: Running, stack: str
) -> None:
    await call(running, stack)
    running.credential.grow_old()
    running.credential.revoke()
    running.credential.failure = SignInRequired()
    assert isinstance(await call(running, stack), SignInRequired)


@both_stacks
async def test_another_failure_to_renew_stays_a_failed_call(running: Running, stack: str) -> None:
    running.credential.failure = RenewalFailed("the authority is away")
    failed = await call(running, stack)
    assert failed.code() is grpc.StatusCode.UNAVAILABLE
    assert "the authority is away" in failed.details()


def test_calls_by_future_are_not_waited_for(running: Running) -> None:
    with channel(running) as opened:
        unary(opened)(b"", timeout=20)
        running.credential.grow_old()
        running.credential.revoke()
        running.calls.gate.clear()
        pending = unary(opened).future(b"", timeout=20)
        running.calls.gate.set()
        assert pending.exception(20).code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(running.credential.minted) == 1


async def test_streams_go_through_and_are_not_repeated(running: Running) -> None:
    with channel(running) as opened:
        stream: Any = opened.unary_stream(STREAM)
        assert await asyncio.to_thread(lambda: list(stream(b"", timeout=20))) == [b"1"]
    async with aio_channel(running) as opened_async:
        stream = opened_async.unary_stream(STREAM)
        assert [each async for each in stream(b"", timeout=20)] == [b"1"]


async def test_waiting_for_a_token_never_blocks_the_event_loop(running: Running) -> None:
    renewing, go_on = threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    def hold() -> None:
        renewing.set()
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)

    running.credential.meanwhile = hold
    async with aio_channel(running) as opened:
        calls = [asyncio.ensure_future(_awaited(unary(opened)(b"", timeout=20))) for _ in range(5)]
        await asyncio.wait_for(begun.wait(), 20)  # the loop runs although five calls wait
        assert not any(each.done() for each in calls)
        go_on.set()
        assert len({await each for each in calls}) == 1
    running.credential.grow_old()
    running.credential.revoke()
    begun.clear()
    go_on.clear()
    async with aio_channel(running) as opened:
        stale = asyncio.ensure_future(_awaited(unary(opened)(b"", timeout=20)))
        await asyncio.wait_for(begun.wait(), 20)  # so it does while the retry renews
        go_on.set()
        assert await stale
    assert len(running.credential.minted) == 2


async def _awaited(pending: Any) -> Any:
    return await pending
