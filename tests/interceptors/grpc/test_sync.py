from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import rpz_auth
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from rpz_auth.caller import CURRENT
from rpz_auth.testing import FakeAuthority
from support.grpc_servers import (
    RESOURCE,
    SCOPE,
    TIMEOUT,
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
    serve_sync,
)

_C = grpc.StatusCode


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


@pytest.fixture
def good(authority: FakeAuthority) -> Metadata:
    with interceptor(authority):
        token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    return (("authorization", token.field_value()),)


class Wrapping(grpc.ServerInterceptor):
    """Puts a function of (behaviour, request, context) around the behaviour of each handler."""

    def __init__(self, around: Callable[[Callable[..., Any], Any, Any], Any]) -> None:
        self._around = around

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        shape = Shape((handler.request_streaming, handler.response_streaming))
        behaviour = getattr(handler, shape.name.lower())

        def wrapped(request: Any, context: Any) -> Any:
            return self._around(behaviour, request, context)

        return shape.handler(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


@pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.name.lower())
def test_trailing_metadata_of_an_outer_interceptor_survives_a_refusal(
    authority: FakeAuthority, good: Metadata, shape: Shape
) -> None:
    def around(behaviour: Callable[..., Any], request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("request-id", "7"),))
        return behaviour(request, context)

    handlers = Generic(handlers_of_kind(Servicer(), Stack.SYNC, "functions"))
    with (
        interceptor(authority) as auth,
        serve_sync(handlers, [Wrapping(around), auth]) as port,
        connect(port) as channel,
    ):
        refusal, outcome = call(channel, shape.path(), shape)
        success, answered = call(channel, shape.path(), shape, good)
    assert refusal.reason is rpz_auth.Reason.CREDENTIALS_MISSING
    assert success.code is _C.OK
    assert ("request-id", "7") in outcome.trailing_metadata()
    assert ("request-id", "7") in answered.trailing_metadata()


@pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.name.lower())
def test_an_inner_interceptor_sees_the_caller_and_only_what_is_let_in(
    authority: FakeAuthority, good: Metadata, shape: Shape
) -> None:
    subjects = []

    def around(behaviour: Callable[..., Any], request: Any, context: Any) -> Any:
        subjects.append(rpz_auth.caller().subject)
        return behaviour(request, context)

    handlers = Generic(handlers_of_kind(Servicer(), Stack.SYNC, "functions"))
    with (
        interceptor(authority) as auth,
        serve_sync(handlers, [auth, Wrapping(around)]) as port,
        connect(port) as channel,
    ):
        assert call(channel, shape.path(), shape)[0].code is _C.UNAUTHENTICATED
        assert call(channel, shape.path(), shape, good)[0].code is _C.OK
    assert subjects == ["user:1"]


@pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.name.lower())
def test_a98_a_refusal_that_an_outer_interceptor_swallows_is_still_a_refusal(
    authority: FakeAuthority, shape: Shape
) -> None:
    def around(behaviour: Callable[..., Any], request: Any, context: Any) -> Any:
        with contextlib.suppress(Exception):
            answer = behaviour(request, context)
            return list(answer) if shape.streams_answer else answer
        return [b"made up"] if shape.streams_answer else b"made up"

    servicer = Servicer()

    def swallowed(behaviour: Callable[..., Any], request: Any, context: Any) -> Any:
        answer = around(behaviour, request, context)
        return iter(answer) if shape.streams_answer else answer

    handlers = Generic(handlers_of_kind(servicer, Stack.SYNC, "functions"))
    with (
        interceptor(authority) as auth,
        serve_sync(handlers, [Wrapping(swallowed), auth]) as port,
        connect(port) as channel,
    ):
        answer, _ = call(channel, shape.path(), shape)
    assert (answer.code, answer.reason) == (_C.UNAUTHENTICATED, rpz_auth.Reason.CREDENTIALS_MISSING)
    assert servicer.log.take() == []


def test_a98_an_abort_that_the_handler_swallows_is_still_an_abort(
    authority: FakeAuthority, good: Metadata
) -> None:
    def handler(_request: bytes, context: grpc.ServicerContext) -> bytes:
        with contextlib.suppress(Exception):
            context.abort(_C.NOT_FOUND, "no such order")
        return b"answer"

    shape = Shape.UNARY_UNARY
    with (
        interceptor(authority) as auth,
        serve_sync(Generic({shape.path(): shape.handler(handler)}), [auth]) as port,
        connect(port) as channel,
    ):
        answer, outcome = call(channel, shape.path(), shape, good)
    assert answer == Answer(_C.NOT_FOUND, None, 0)
    assert outcome.details() == "no such order"


def _stop(server: grpc.Server) -> None:
    server.stop(None).wait()


def test_r123_nothing_of_a_call_is_left_on_the_thread_for_the_next(
    authority: FakeAuthority, good: Metadata
) -> None:
    shape, variables = Shape.UNARY_UNARY, []

    def handler(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        variables.append(CURRENT.get(None))
        return b"answer"

    handlers = Generic({shape.path(name): shape.handler(handler) for name in ("Guarded", "Public")})
    with ThreadPoolExecutor(1) as pool, interceptor(authority) as auth, contextlib.ExitStack() as stack:
        ports = []
        for interceptors in ([auth], []):
            server = grpc.server(pool, interceptors=list[grpc.ServerInterceptor](interceptors))
            server.add_generic_rpc_handlers((handlers,))
            ports.append(server.add_insecure_port("127.0.0.1:0"))
            server.start()
            stack.callback(_stop, server)
        guarded = stack.enter_context(connect(ports[0]))
        unguarded = stack.enter_context(connect(ports[1]))
        assert call(guarded, shape.path(), shape, good)[0].code is _C.OK
        assert call(guarded, shape.path("Public"), shape)[0].code is _C.OK
        assert call(unguarded, shape.path(), shape)[0].code is _C.OK
        assert call(guarded, shape.path(), shape)[0].code is _C.UNAUTHENTICATED
        assert call(unguarded, shape.path(), shape)[0].code is _C.OK
        on_the_thread = pool.submit(CURRENT.get, None).result()
    callers = [None if variable is None else variable.caller is not None for variable in variables]
    assert callers == [True, False, None, None]
    assert on_the_thread is None


@pytest.mark.parametrize("shape", [Shape.UNARY_STREAM, Shape.STREAM_STREAM], ids=lambda shape: shape.name)
def test_a_generator_whose_client_went_away_is_closed_with_its_caller(
    authority: FakeAuthority, good: Metadata, shape: Shape
) -> None:
    closed, subjects = threading.Event(), []

    def generator(_request: Any, _context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            while True:
                yield b"answer"
        finally:
            subjects.append(rpz_auth.caller().subject)
            closed.set()

    with (
        interceptor(authority) as auth,
        serve_sync(Generic({shape.path(): shape.handler(generator)}), [auth]) as port,
        connect(port) as channel,
    ):
        method = channel.stream_stream(shape.path())
        answers = method(iter([b"message"]), metadata=good)
        assert next(answers) == b"answer"
        answers.cancel()
        assert closed.wait(TIMEOUT)
    assert subjects == ["user:1"]


def test_a_stream_of_a_client_that_is_known_to_be_gone_raises_in_the_handler(
    authority: FakeAuthority, good: Metadata
) -> None:
    """Known is the point: without any interceptor, too, a stream that was just cut off may look complete."""
    shape, entered, ended = Shape.STREAM_UNARY, threading.Event(), threading.Event()
    outcomes: list[str] = []

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

    hold = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"message"
        hold.wait(TIMEOUT)

    with (
        interceptor(authority) as auth,
        serve_sync(Generic({shape.path(): shape.handler(handler)}), [auth]) as port,
        connect(port) as channel,
    ):
        pending = channel.stream_unary(shape.path()).future(messages(), metadata=good)
        assert entered.wait(TIMEOUT)
        pending.cancel()
        assert ended.wait(TIMEOUT)
        hold.set()
    assert outcomes == ["cut off"]


def test_a_broken_message_leaves_no_traceback(
    authority: FakeAuthority, good: Metadata, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else whoever may call could fill the log."""

    def parse(_raw: bytes) -> bytes:
        raise ValueError

    servicer = Servicer()
    handlers: dict[str, Handler] = {
        shape.path(): shape.handler(servicer.functions(shape), request_deserializer=parse) for shape in Shape
    }
    with (
        interceptor(authority) as auth,
        serve_sync(Generic(handlers), [auth]) as port,
        connect(port) as channel,
    ):
        for shape in Shape:
            assert call(channel, shape.path(), shape, good)[0].code is _C.INTERNAL
            if not shape.streams_request:
                streaming = Shape((True, shape.streams_answer))
                assert call(channel, shape.path(), streaming, good, ())[0].code is _C.UNIMPLEMENTED
    assert "Traceback" not in capfd.readouterr().err


def test_watchers_of_health_hold_no_threads(authority: FakeAuthority) -> None:
    """Health's `Watch` answers by callback; anybody may open any number of them."""
    auth = rpz_auth.AuthInterceptor(
        authority, resource=RESOURCE, policies={"grpc.health.v1.Health": rpz_auth.PUBLIC}
    )
    servicer = health.HealthServicer()

    def prepare(server: grpc.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)

    request = health_pb2.HealthCheckRequest()
    serving, not_serving = (
        health_pb2.HealthCheckResponse(status=status)
        for status in (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)
    )
    with auth, serve_sync(Generic({}), [auth], threads=2, prepare=prepare) as port, connect(port) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watchers = [stub.Watch(request) for _ in range(8)]
        assert [next(watcher) for watcher in watchers] == [serving] * 8
        assert stub.Check(request, timeout=TIMEOUT) == serving
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert [next(watcher) for watcher in watchers] == [not_serving] * 8
        for watcher in watchers:
            watcher.cancel()


def test_health_can_be_watched_behind_an_interceptor_that_gives_no_callback(authority: FakeAuthority) -> None:
    """OpenTelemetry's and others stand in front of ours, and iterate over whatever streams."""
    auth = rpz_auth.AuthInterceptor(
        authority, resource=RESOURCE, policies={"grpc.health.v1.Health": rpz_auth.PUBLIC}
    )
    in_front = Wrapping(lambda behaviour, request, context: behaviour(request, context))

    def prepare(server: grpc.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)

    with (
        auth,
        serve_sync(Generic({}), [in_front, auth], prepare=prepare) as port,
        connect(port) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watcher = stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        serving = health_pb2.HealthCheckResponse.SERVING
        assert next(watcher) == health_pb2.HealthCheckResponse(status=serving)
        watcher.cancel()


def test_a_handler_that_answers_by_callback_is_guarded(authority: FakeAuthority, good: Metadata) -> None:
    shape, subjects = Shape.UNARY_STREAM, []

    def handler(_request: bytes, _context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        subjects.append(rpz_auth.caller().subject)
        for answer in (b"one", b"two", None):
            send(answer)

    vars(handler)["experimental_non_blocking"] = True
    with (
        interceptor(authority) as auth,
        serve_sync(Generic({shape.path(): shape.handler(handler)}), [auth]) as port,
        connect(port) as channel,
    ):
        assert call(channel, shape.path(), shape)[0].reason is rpz_auth.Reason.CREDENTIALS_MISSING
        assert call(channel, shape.path(), shape, good)[0] == Answer(_C.OK, None, 2)
    assert subjects == ["user:1"]


def test_the_caller_can_be_handed_to_threads_that_a_handler_starts(
    authority: FakeAuthority, good: Metadata
) -> None:
    shape, subjects = Shape.UNARY_UNARY, []

    def handler(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        variables = contextvars.copy_context()
        thread = threading.Thread(
            target=lambda: subjects.append(variables.run(lambda: rpz_auth.caller().subject))
        )
        thread.start()
        thread.join()
        return b"answer"

    with (
        interceptor(authority) as auth,
        serve_sync(Generic({shape.path(): shape.handler(handler)}), [auth]) as port,
        connect(port) as channel,
    ):
        assert call(channel, shape.path(), shape, good)[0].code is _C.OK
    assert subjects == ["user:1"]
