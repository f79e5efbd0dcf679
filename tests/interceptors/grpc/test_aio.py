from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import rpz_auth
from rpz_auth.grpc import aio
from rpz_auth.grpc.handlers import behaviour_of
from rpz_auth.testing import FakeAuthority
from support.grpc_servers import (
    KINDS,
    RESOURCE,
    SCOPE,
    Answer,
    Generic,
    Handler,
    Metadata,
    Servicer,
    Shape,
    Stack,
    call,
    connect,
    handlers_of_kind,
    interceptor,
    serve_asyncio,
)

_C = grpc.StatusCode
_BY_NAME = pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.name.lower())


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


@pytest.fixture
def good(authority: FakeAuthority) -> Metadata:
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    return (("authorization", token.field_value()),)


@contextlib.asynccontextmanager
async def _channel(authority: FakeAuthority, handlers: dict[str, Handler]) -> AsyncIterator[Any]:
    """A guarded server in this test's loop, and a channel to it."""
    async with interceptor(authority) as auth:
        server = grpc.aio.server(interceptors=[auth])
        server.add_generic_rpc_handlers((Generic(handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
        await server.stop(None)


@_BY_NAME
@pytest.mark.parametrize("kind", KINDS[Stack.ASYNCIO])
def test_handlers_keep_their_kind_and_plain_ones_get_the_usual_one(kind: str, shape: Shape) -> None:
    """Instrumentation (OpenTelemetry's) tells by the kind how to wrap."""

    async def admit(_context: Any) -> Any:
        raise AssertionError

    def enter(_context: Any, _caller: Any, _end: Any) -> Any:
        raise AssertionError

    behaviour = KINDS[Stack.ASYNCIO][kind](Servicer(), shape)
    guarded = behaviour_of(aio.guard(shape.handler(behaviour), admit, enter))
    writes = inspect.iscoroutinefunction(behaviour)
    assert inspect.iscoroutinefunction(guarded) is (writes or not shape.streams_answer)
    assert inspect.isasyncgenfunction(guarded) is (shape.streams_answer and not writes)


class Wrapping(grpc.aio.ServerInterceptor):
    """Does something with the context of each call before its handler does."""

    def __init__(self, before: Callable[[Any], None]) -> None:
        self._before = before

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        shape = Shape((handler.request_streaming, handler.response_streaming))
        behaviour = behaviour_of(handler)

        async def coroutine(request: Any, context: Any) -> Any:
            self._before(context)
            return await behaviour(request, context)

        async def generator(request: Any, context: Any) -> Any:
            self._before(context)
            async for answer in behaviour(request, context):
                yield answer

        return shape.handler(
            generator if inspect.isasyncgenfunction(behaviour) else coroutine,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


@_BY_NAME
@pytest.mark.parametrize("kind", KINDS[Stack.ASYNCIO])
def test_trailing_metadata_of_an_outer_interceptor_survives_a_refusal(
    authority: FakeAuthority, good: Metadata, kind: str, shape: Shape
) -> None:
    outer = Wrapping(lambda context: context.set_trailing_metadata((("request-id", "7"),)))
    handlers = Generic(handlers_of_kind(Servicer(), Stack.ASYNCIO, kind))
    with (
        interceptor(authority) as auth,
        serve_asyncio(handlers, [outer, auth]) as port,
        connect(port) as channel,
    ):
        refusal, outcome = call(channel, shape.path(), shape)
        success, answered = call(channel, shape.path(), shape, good)
    assert refusal.reason is rpz_auth.Reason.CREDENTIALS_MISSING
    assert success.code is _C.OK
    assert ("request-id", "7") in outcome.trailing_metadata()
    assert ("request-id", "7") in answered.trailing_metadata()


@_BY_NAME
@pytest.mark.parametrize("kind", ["coroutines", "readers"])
def test_an_inner_interceptor_sees_the_caller_and_only_what_is_let_in(
    authority: FakeAuthority, good: Metadata, kind: str, shape: Shape
) -> None:
    subjects: list[str] = []
    inner = Wrapping(lambda _: subjects.append(rpz_auth.caller().subject))
    handlers = Generic(handlers_of_kind(Servicer(), Stack.ASYNCIO, kind))
    with (
        interceptor(authority) as auth,
        serve_asyncio(handlers, [auth, inner]) as port,
        connect(port) as channel,
    ):
        assert call(channel, shape.path(), shape)[0].code is _C.UNAUTHENTICATED
        assert call(channel, shape.path(), shape, good)[0].code is _C.OK
    assert subjects == ["user:1"]


def test_a98_an_abort_that_the_handler_swallows_is_still_an_abort(
    authority: FakeAuthority, good: Metadata
) -> None:
    async def handler(_request: bytes, context: Any) -> bytes:
        with contextlib.suppress(Exception):
            await context.abort(_C.NOT_FOUND, "no such order")
        return b"answer"

    shape = Shape.UNARY_UNARY
    with (
        interceptor(authority) as auth,
        serve_asyncio(Generic({shape.path(): shape.handler(handler)}), [auth]) as port,
        connect(port) as channel,
    ):
        answer, outcome = call(channel, shape.path(), shape, good)
    assert answer == Answer(_C.NOT_FOUND, None, 0)
    assert outcome.details() == "no such order"


async def test_r123_two_calls_at_once_each_have_their_own_caller(authority: FakeAuthority) -> None:
    shape, both, met = Shape.UNARY_UNARY, asyncio.Event(), []

    async def handler(_request: bytes, _context: Any) -> bytes:
        met.append(rpz_auth.caller().subject)
        if len(met) == 2:
            both.set()
        await both.wait()
        return rpz_auth.caller().subject.encode()

    async with _channel(authority, {shape.path(): shape.handler(handler)}) as channel:
        tokens = [
            authority.access_token(resource=RESOURCE, scopes=[SCOPE], subject=f"user:{number}")
            for number in range(2)
        ]
        answers = await asyncio.gather(
            *(
                channel.unary_unary(shape.path())(b"", metadata=(("authorization", token.field_value()),))
                for token in tokens
            )
        )
    assert answers == [b"user:0", b"user:1"]
    assert sorted(met) == ["user:0", "user:1"]


def _facts(context: Any) -> tuple[Any, ...]:
    return (
        context.peer(),
        context.peer_identities(),
        context.peer_identity_key(),
        context.auth_context(),
        context.invocation_metadata(),
    )


async def _hold_generator(closed: asyncio.Future[Any], context: Any) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            yield bytes(65536)  # more than the window of a client that does not read
    finally:
        await asyncio.sleep(0)
        with contextlib.suppress(asyncio.InvalidStateError):
            closed.set_result((rpz_auth.caller().subject, _facts(context)))


@pytest.mark.parametrize("shape", [Shape.UNARY_STREAM, Shape.STREAM_STREAM], ids=lambda shape: shape.name)
async def test_a_generator_whose_client_went_away_is_closed_with_its_caller_and_peer(
    authority: FakeAuthority, good: Metadata, shape: Shape
) -> None:
    """grpc drops such a generator; what is left of it runs after the call's end."""
    closed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    facts = []

    async def generator(_request: Any, context: Any) -> AsyncIterator[bytes]:
        facts.append(_facts(context))
        async with contextlib.aclosing(_hold_generator(closed, context)) as answers:
            async for answer in answers:
                yield answer

    async with _channel(authority, {shape.path(): shape.handler(generator)}) as channel:
        if shape.streams_request:
            pending = channel.stream_stream(shape.path())(iter([b"message"]), metadata=good)
        else:
            pending = channel.unary_stream(shape.path())(b"message", metadata=good)
        await pending.read()
        pending.cancel()
        assert await closed == ("user:1", *facts)


async def test_a_generator_that_is_closed_in_another_context_still_has_its_caller(
    authority: FakeAuthority, good: Metadata
) -> None:
    """The loop closes a dropped generator in the context of whoever dropped it, which may be any."""
    shape, subjects = Shape.UNARY_STREAM, []

    async def behaviour(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"answer"
        finally:
            subjects.append(rpz_auth.caller().subject)

    class Closing(grpc.aio.ServerInterceptor):
        """Takes one answer, then closes in a context that knows of no call."""

        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            guarded = behaviour_of(await continuation(handler_call_details))

            async def generator(request: Any, context: Any) -> AsyncIterator[bytes]:
                answers = guarded(request, context)
                yield await anext(answers)
                await asyncio.create_task(answers.aclose(), context=contextvars.Context())

            return Shape.STREAM_STREAM.handler(generator)

    async with interceptor(authority) as auth:
        server = grpc.aio.server(interceptors=[Closing(), auth])
        server.add_generic_rpc_handlers((Generic({shape.path(): shape.handler(behaviour)}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_stream(shape.path())
            assert [answer async for answer in method(b"", metadata=good)] == [b"answer"]
        await server.stop(None)
    assert subjects == ["user:1"]


async def test_a_context_is_harmless_after_its_call(authority: FakeAuthority, good: Metadata) -> None:
    kept: list[Any] = []

    async def handler(request: Any, context: Any) -> bytes:
        kept.extend((request, context, _facts(context)))
        return b"answer"

    shape = Shape.STREAM_UNARY
    async with _channel(authority, {shape.path(): shape.handler(handler)}) as channel:
        assert await channel.stream_unary(shape.path())(iter([b"one", b"two"]), metadata=good) == b"answer"
        request, context, facts = kept
        # The client can have its answer a turn of the loop before the call's task is done.
        await context._task
        assert _facts(context) == facts
        assert context.peer().startswith("ipv4:127.0.0.1:")
        for late in (
            context.read(),
            context.write(b"late"),
            context.send_initial_metadata(()),
            context.abort(_C.ABORTED, "late"),
            anext(request),
        ):
            with pytest.raises(grpc.aio.UsageError, match="has ended"):
                await late


async def test_a_done_callback_gets_a_context_that_still_knows_its_peer(
    authority: FakeAuthority, good: Metadata
) -> None:
    shape = Shape.UNARY_UNARY
    entered = asyncio.Event()
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    peers = []

    async def handler(_request: bytes, context: Any) -> bytes:
        peers.append(context.peer())
        context.add_done_callback(lambda ended: done.set_result(ended.peer()))
        entered.set()
        await asyncio.Event().wait()
        return b"answer"

    async with _channel(authority, {shape.path(): shape.handler(handler)}) as channel:
        pending = channel.unary_unary(shape.path())(b"", metadata=good)
        await entered.wait()
        pending.cancel()
        assert [await done] == peers


async def test_the_context_does_what_grpcs_own_does(authority: FakeAuthority, good: Metadata) -> None:
    async def handler(request: Any, context: Any) -> None:
        assert not context.done()
        assert context.time_remaining() > 0
        context.set_compression(grpc.Compression.Gzip)
        await context.send_initial_metadata((("initial", "1"),))
        context.set_trailing_metadata((("trailing", "2"),))
        async for message in request:
            context.disable_next_message_compression()
            await context.write(message.upper())
        context.set_code(_C.OUT_OF_RANGE)
        context.set_details("too far")
        assert (context.code(), context.details()) == (_C.OUT_OF_RANGE, "too far")

    shape = Shape.STREAM_STREAM
    async with _channel(authority, {shape.path(): shape.handler(handler)}) as channel:
        pending = channel.stream_stream(shape.path())(iter([b"one", b"two"]), metadata=good, timeout=60)
        assert (await pending.initial_metadata())["initial"] == "1"
        assert [await pending.read(), await pending.read()] == [b"ONE", b"TWO"]
        assert await pending.code() is _C.OUT_OF_RANGE
        assert await pending.details() == "too far"
        assert (await pending.trailing_metadata())["trailing"] == "2"


async def test_a_rich_error_reaches_the_client(authority: FakeAuthority, good: Metadata) -> None:
    async def handler(_request: bytes, context: Any) -> bytes:
        await context.abort_with_status(rpz_auth.status.rpc_status(rpz_auth.BackendUnavailable()))
        return b"answer"

    shape = Shape.UNARY_UNARY
    async with _channel(authority, {shape.path(): shape.handler(handler)}) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.unary_unary(shape.path())(b"", metadata=good)
    assert rpz_auth.reason_of(error.value) is rpz_auth.Reason.BACKEND_UNAVAILABLE


class Iterating(grpc.aio.ServerInterceptor):
    """Stands in front as OpenTelemetry's and Sentry's do: iterates over whatever streams."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        behaviour = behaviour_of(handler)

        async def wrapped(request: Any, context: Any) -> AsyncIterator[Any]:
            async for answer in behaviour(request, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(wrapped)


def test_a_made_up_method_is_refused_behind_an_interceptor_that_iterates(
    authority: FakeAuthority, good: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    shape = Shape.UNARY_UNARY
    with (
        interceptor(authority) as auth,
        serve_asyncio(Generic({}), [Iterating(), auth]) as port,
        connect(port) as channel,
    ):
        anybody = call(channel, shape.path("MadeUp"), shape)[0]
        somebody = call(channel, shape.path("MadeUp"), shape, good)[0]
    assert anybody == Answer(_C.UNAUTHENTICATED, rpz_auth.Reason.CREDENTIALS_MISSING, 0)
    assert somebody == Answer(_C.UNIMPLEMENTED, rpz_auth.Reason.METHOD_UNKNOWN, 0)
    assert [record.message for record in caplog.records if record.exc_info] == []
