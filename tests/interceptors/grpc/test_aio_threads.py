from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
from rpz_auth.grpc import aio_threads
from rpz_auth.grpc.aio_context import CallContext
from rpz_auth.grpc.aio_thread_context import ThreadContext
from rpz_auth.grpc.handlers import behaviour_of
from rpz_auth.testing import FakeAuthority
from support.grpc_servers import RESOURCE, SCOPE, TIMEOUT, Generic, Metadata, Shape, interceptor

_C = grpc.StatusCode
_PEER = "ipv4:127.0.0.1:"


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


@pytest.fixture
def good(authority: FakeAuthority) -> Metadata:
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    return (("authorization", token.field_value()),)


@contextlib.asynccontextmanager
async def _method(
    authority: FakeAuthority, shape: Shape, behaviour: Callable[..., Any]
) -> AsyncIterator[Any]:
    """A guarded server of one plain function, and what calls it."""
    async with interceptor(authority) as auth:
        server = grpc.aio.server(interceptors=[auth])
        server.add_generic_rpc_handlers((Generic({shape.path(): shape.handler(behaviour)}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield getattr(channel, shape.name.lower())(shape.path())
        await server.stop(None)


async def _wait(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, TIMEOUT)


async def test_each_step_of_a_generator_has_the_caller(authority: FakeAuthority, good: Metadata) -> None:
    threads = []

    def handler(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            for message in messages:
                threads.append(threading.current_thread())
                yield message + rpz_auth.caller().subject.encode()
        finally:
            context.set_trailing_metadata((("closed-by", rpz_auth.caller().subject),))

    async with _method(authority, Shape.STREAM_STREAM, handler) as method:
        call = method(iter([b"one ", b"two "]), metadata=good)
        assert [answer async for answer in call] == [b"one user:1", b"two user:1"]
        assert (await call.trailing_metadata())["closed-by"] == "user:1"
    assert threading.current_thread() not in threads


async def test_a_thread_can_do_what_the_sync_stack_offers(authority: FakeAuthority, good: Metadata) -> None:
    def handler(request: bytes, context: Any) -> bytes:
        assert context.is_active()
        assert context.peer().startswith(_PEER)
        assert (context.peer_identities(), context.peer_identity_key()) == (None, None)
        assert context.auth_context()["transport_security_type"] == [b"insecure"]
        assert good[0] in context.invocation_metadata()
        assert 0 < context.time_remaining() < 61  # the two ends round
        context.set_compression(grpc.Compression.Gzip)
        context.disable_next_message_compression()
        context.send_initial_metadata((("initial", "1"),))
        context.set_trailing_metadata((("trailing", "2"),))
        assert context.trailing_metadata() == (("trailing", "2"),)
        context.set_code(_C.OUT_OF_RANGE)
        context.set_details("too far")
        assert (context.code(), context.details()) == (_C.OUT_OF_RANGE, "too far")
        return request

    async with _method(authority, Shape.UNARY_UNARY, handler) as method:
        call = method(b"", metadata=good, timeout=60)
        assert (await call.initial_metadata())["initial"] == "1"
        assert (await call.code(), await call.details()) == (_C.OUT_OF_RANGE, "too far")
        assert (await call.trailing_metadata())["trailing"] == "2"


def _abort(context: grpc.ServicerContext) -> None:
    context.abort(_C.NOT_FOUND, "no such order")


def _abort_with_status(context: grpc.ServicerContext) -> None:
    context.abort_with_status(rpz_auth.status.rpc_status(rpz_auth.BackendUnavailable()))


def _cancel(context: grpc.ServicerContext) -> None:
    context.cancel()


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize(
    ("end", "code"),
    [(_abort, _C.NOT_FOUND), (_abort_with_status, _C.UNAVAILABLE), (_cancel, _C.CANCELLED)],
)
@pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.name.lower())
async def test_a98_a_thread_can_end_its_call_and_cannot_take_that_back(
    authority: FakeAuthority,
    good: Metadata,
    shape: Shape,
    end: Callable[[grpc.ServicerContext], None],
    code: grpc.StatusCode,
    *,
    swallow: bool,
) -> None:
    def function(request: Any, context: grpc.ServicerContext) -> bytes:
        if shape.streams_request:
            assert list(request) == [
                b"message"
            ]  # a client that still sends may be told INTERNAL, by grpc itself
        with contextlib.suppress(Exception) if swallow else contextlib.nullcontext():
            end(context)
        return b"answer"

    def generator(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield function(request, context)

    async with _method(authority, shape, generator if shape.streams_answer else function) as method:
        call = method(iter([b"message"]) if shape.streams_request else b"message", metadata=good)
        assert await call.code() is code


async def test_a_client_that_goes_away_is_noticed_in_the_thread(
    authority: FakeAuthority, good: Metadata
) -> None:
    entered, noticed, outcomes = threading.Event(), threading.Event(), []

    def failing() -> None:
        raise RuntimeError

    def handler(_request: bytes, context: grpc.ServicerContext) -> bytes:
        called_back = threading.Event()
        assert context.add_callback(failing)
        assert context.add_callback(called_back.set)
        entered.set()
        assert called_back.wait(TIMEOUT)
        outcomes.append((context.is_active(), context.add_callback(called_back.set), context.peer()[:5]))
        noticed.set()
        return b"answer"

    async with _method(authority, Shape.UNARY_UNARY, handler) as method:
        call = method(b"", metadata=good)
        await _wait(entered)
        call.cancel()
        await _wait(noticed)
    assert outcomes == [(False, False, "ipv4:")]


async def test_a_call_that_ends_by_itself_calls_back_too(authority: FakeAuthority, good: Metadata) -> None:
    called_back = threading.Event()

    def handler(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(called_back.set)
        return b"answer"

    async with _method(authority, Shape.UNARY_UNARY, handler) as method:
        assert await method(b"", metadata=good) == b"answer"
        await _wait(called_back)


async def test_a_stream_that_is_cut_off_lets_its_thread_go(authority: FakeAuthority, good: Metadata) -> None:
    entered, ended = threading.Event(), threading.Event()

    def handler(messages: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        try:
            for _ in messages:
                entered.set()
        finally:
            ended.set()
        return b"answer"

    async with _method(authority, Shape.STREAM_UNARY, handler) as method:
        for _ in range(100):
            entered.clear()
            ended.clear()
            call = method(metadata=good)
            await call.write(b"message")
            await _wait(entered)
            call.cancel()
            await _wait(ended)


async def test_a_stream_of_a_client_that_is_known_to_be_gone_raises_in_the_handler(
    authority: FakeAuthority, good: Metadata
) -> None:
    """Known is the point: without any interceptor, too, a stream that was just cut off may look complete."""
    entered, ended, outcomes = threading.Event(), threading.Event(), []

    def handler(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        gone = threading.Event()
        context.add_callback(gone.set)
        next(messages)
        entered.set()
        assert gone.wait(TIMEOUT)
        try:
            outcomes.append(f"complete {next(messages, None)!r}")
        except grpc.RpcError:
            outcomes.append("cut off")
            raise
        finally:
            ended.set()
        return b"answer"

    async with _method(authority, Shape.STREAM_UNARY, handler) as method:
        call = method(metadata=good)
        await call.write(b"message")
        await _wait(entered)
        call.cancel()
        await _wait(ended)
    assert outcomes == ["cut off"]


@pytest.mark.parametrize("shape", [Shape.UNARY_STREAM, Shape.STREAM_STREAM], ids=lambda shape: shape.name)
async def test_a_generator_whose_client_went_away_is_closed_when_it_has_stopped_running(
    authority: FakeAuthority, good: Metadata, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    running, cancelled = threading.Event(), threading.Event()
    go_on, closed = threading.Event(), threading.Event()
    subjects = []

    def handler(_request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(cancelled.set)
        try:
            yield b"first"
            running.set()
            assert go_on.wait(TIMEOUT)  # the client goes away while this step runs
            yield b"second"
        finally:
            subjects.append((rpz_auth.caller().subject, context.peer()[:5]))
            closed.set()

    async with _method(authority, shape, handler) as method:

        def request() -> Any:
            return iter([b"message"]) if shape.streams_request else b"message"

        call = method(request(), metadata=good)
        assert await call.read() == b"first"
        await _wait(running)
        call.cancel()
        await _wait(cancelled)
        for _ in range(20):  # each takes the server's loop through many turns, in which it might close
            assert await method(request()).code() is _C.UNAUTHENTICATED
        assert not closed.is_set()
        go_on.set()
        await _wait(closed)
    assert subjects == [("user:1", "ipv4:")]
    assert caplog.messages == []


@pytest.mark.parametrize("shape", [Shape.UNARY_UNARY, Shape.UNARY_STREAM], ids=lambda shape: shape.name)
async def test_a_cancellation_is_not_lost_while_a_thread_runs(
    authority: FakeAuthority, good: Metadata, shape: Shape
) -> None:
    """Somebody between grpc and the handler may rely on it, by a timeout of its own for instance."""
    running, go_on = threading.Event(), threading.Event()
    outcomes: list[str] = []

    def one(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        running.set()
        assert go_on.wait(TIMEOUT)
        return b"answer"

    def many(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield one(request, context)

    class Cancelling(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            behaviour = behaviour_of(await continuation(handler_call_details))

            async def step(request: Any, context: Any) -> Any:
                if shape.streams_answer:
                    return await anext(behaviour(request, context))
                return await behaviour(request, context)

            async def call(request: Any, context: Any) -> bytes:
                inner = asyncio.create_task(step(request, context))
                await _wait(running)
                inner.cancel()
                go_on.set()
                await asyncio.wait([inner])
                outcomes.append("cancelled" if inner.cancelled() else f"answered {inner.result()!r}")
                return b"outer"

            return Shape.STREAM_UNARY.handler(call)

    async with interceptor(authority) as auth:
        server = grpc.aio.server(interceptors=[Cancelling(), auth])
        behaviour = many if shape.streams_answer else one
        server.add_generic_rpc_handlers((Generic({shape.path(): shape.handler(behaviour)}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(shape.path())
            assert await method(b"", metadata=good) == b"outer"
        await server.stop(None)
    assert outcomes == ["cancelled"]


async def test_a_context_is_harmless_in_a_thread_that_outlives_its_call(
    authority: FakeAuthority, good: Metadata
) -> None:
    kept: list[Any] = []

    def handler(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        kept.extend((messages, context))
        return b"answer"

    async with _method(authority, Shape.STREAM_UNARY, handler) as method:
        assert await method(iter([b"message"]), metadata=good) == b"answer"
        messages, context = kept
        await context._context._task
        assert not context.is_active()
        assert context.peer().startswith(_PEER)
        for late, error in (
            (lambda: context.abort(_C.ABORTED, "late"), grpc.aio.UsageError),
            (lambda: context.send_initial_metadata(()), grpc.aio.UsageError),
            (lambda: next(messages), grpc.aio.UsageError),
        ):
            with pytest.raises(error, match="has ended"):
                await asyncio.to_thread(late)


async def test_a_function_that_had_to_wait_for_a_thread_does_not_run_for_a_client_that_went_away(
    authority: FakeAuthority, good: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, entered, release = [], threading.Event(), threading.Event()
    waits, ended = threading.Event(), threading.Event()

    def handler(request: bytes, _context: grpc.ServicerContext) -> bytes:
        ran.append(request)
        entered.set()
        assert release.wait(TIMEOUT)
        return b"answer"

    class Watched(ThreadContext):
        def __init__(self, context: CallContext) -> None:
            super().__init__(context)
            if entered.is_set():
                waits.set()

        def end(self) -> None:
            super().end()
            ended.set()

    monkeypatch.setattr(aio_threads, "ThreadContext", Watched)
    with ThreadPoolExecutor(1) as executor, ThreadPoolExecutor(1) as watching:
        loop = asyncio.get_running_loop()
        async with _method(authority, Shape.UNARY_UNARY, handler) as method:
            loop.set_default_executor(executor)
            busy = method(b"busy", metadata=good)
            assert await loop.run_in_executor(watching, entered.wait, TIMEOUT)
            waiting = method(b"waiting", metadata=good)
            assert await loop.run_in_executor(watching, waits.wait, TIMEOUT)
            waiting.cancel()
            assert await loop.run_in_executor(watching, ended.wait, TIMEOUT)
            last = method(b"last", metadata=good)
            release.set()
            assert [await busy, await last] == [b"answer", b"answer"]
            loop.set_default_executor(watching)  # what is left to do needs no handler's thread
    assert ran == [b"busy", b"last"]


async def test_a_server_stops_while_a_thread_waits_for_a_message(
    authority: FakeAuthority, good: Metadata
) -> None:
    entered, ended = threading.Event(), threading.Event()

    def handler(messages: Iterator[bytes], _context: grpc.ServicerContext) -> bytes:
        entered.set()
        try:
            return b"".join(messages)
        finally:
            ended.set()

    async with _method(authority, Shape.STREAM_UNARY, handler) as method:
        call = method(metadata=good)
        await _wait(entered)
    await _wait(ended)
    assert await call.code() is not _C.OK
