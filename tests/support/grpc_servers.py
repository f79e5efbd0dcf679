"""Servers of both stacks, handlers of every kind, and a client that says what came of a call."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import grpc.aio
import rpz_auth

SERVICE = "matrix.v1.Matrix"
RESOURCE = "https://matrix"
SCOPE = "matrix.call"
TIMEOUT = 20.0
ANSWERS = 3
"""Messages in each streamed answer."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Metadata = tuple[tuple[str, str | bytes], ...]


class Shape(enum.Enum):
    """The four shapes of a call: does the request stream, does the answer."""

    UNARY_UNARY = (False, False)
    UNARY_STREAM = (False, True)
    STREAM_UNARY = (True, False)
    STREAM_STREAM = (True, True)

    @property
    def streams_request(self) -> bool:
        return self.value[0]

    @property
    def streams_answer(self) -> bool:
        return self.value[1]

    def path(self, demand: str = "Guarded") -> str:
        return f"/{SERVICE}/{demand}{self.name}"

    def handler(self, behaviour: Callable[..., Any], **options: Any) -> Handler:
        make: dict[Shape, Callable[..., Handler]] = {
            Shape.UNARY_UNARY: grpc.unary_unary_rpc_method_handler,
            Shape.UNARY_STREAM: grpc.unary_stream_rpc_method_handler,
            Shape.STREAM_UNARY: grpc.stream_unary_rpc_method_handler,
            Shape.STREAM_STREAM: grpc.stream_stream_rpc_method_handler,
        }
        return make[self](behaviour, **options)


class Stack(enum.Enum):
    SYNC = "sync"
    ASYNCIO = "asyncio"


def policies() -> dict[str, rpz_auth.Policy]:
    """A guarded and a public method of each shape; `Unlisted…` exists without a policy."""
    return {shape.path(): rpz_auth.scopes(SCOPE) for shape in Shape} | {
        shape.path("Public"): rpz_auth.PUBLIC for shape in Shape
    }


def interceptor(authority: rpz_auth.Authority, **options: Any) -> rpz_auth.AuthInterceptor:
    return rpz_auth.AuthInterceptor(authority, resource=RESOURCE, policies=policies(), **options)


@dataclass(frozen=True)
class Seen:
    """What a handler saw of its call."""

    subject: str | None
    peer: str
    authorization: tuple[str | bytes, ...]
    messages: tuple[bytes, ...]


@dataclass
class Log:
    """What all handlers of a server saw."""

    seen: list[Seen] = field(default_factory=list)

    def note(self, context: Any, messages: Iterable[bytes]) -> None:
        try:
            subject = rpz_auth.caller().subject
        except LookupError:
            subject = None
        authorization = tuple(v for k, v in context.invocation_metadata() if k == "authorization")
        self.seen.append(Seen(subject, str(rpz_auth.peer()), authorization, tuple(messages)))

    def take(self) -> list[Seen]:
        seen, self.seen = self.seen, []
        return seen


def _list(request: Any) -> list[bytes]:
    return [request] if isinstance(request, bytes) else list(request)


async def _alist(request: Any) -> list[bytes]:
    return [request] if isinstance(request, bytes) else [message async for message in request]


class Servicer:
    """One behaviour for each kind of handler, each noting what it saw."""

    def __init__(self) -> None:
        self.log = Log()

    def method(self, request: Any, context: Any) -> bytes:
        self.log.note(context, _list(request))
        return b"answer"

    def generator_method(self, request: Any, context: Any) -> Iterator[bytes]:
        self.log.note(context, _list(request))
        yield from [b"answer"] * ANSWERS

    def functions(self, shape: Shape) -> Callable[..., Any]:
        def function(request: Any, context: Any) -> bytes:
            return self.method(request, context)

        def generator(request: Any, context: Any) -> Iterator[bytes]:
            yield from self.generator_method(request, context)

        return generator if shape.streams_answer else function

    def methods(self, shape: Shape) -> Callable[..., Any]:
        return self.generator_method if shape.streams_answer else self.method

    def iterators(self, shape: Shape) -> Callable[..., Any]:
        def function(request: Any, context: Any) -> Iterator[bytes]:
            self.log.note(context, _list(request))
            return iter([b"answer"] * ANSWERS)

        return function if shape.streams_answer else self.method

    def coroutines(self, shape: Shape) -> Callable[..., Any]:
        async def coroutine(request: Any, context: Any) -> bytes:
            self.log.note(context, await _alist(request))
            return b"answer"

        async def writer(request: Any, context: Any) -> None:
            self.log.note(context, await _alist(request))
            for _ in range(ANSWERS):
                await context.write(b"answer")

        return writer if shape.streams_answer else coroutine

    def readers(self, shape: Shape) -> Callable[..., Any]:
        """As `coroutines`, reading by `context.read` and answering by an asynchronous generator."""

        async def messages(request: Any, context: Any) -> list[bytes]:
            if not shape.streams_request:
                return [request]
            read = []
            while (message := await context.read()) is not grpc.aio.EOF:
                read.append(message)
            return read

        async def coroutine(request: Any, context: Any) -> bytes:
            self.log.note(context, await messages(request, context))
            return b"answer"

        async def generator(request: Any, context: Any) -> AsyncIterator[bytes]:
            self.log.note(context, await messages(request, context))
            for _ in range(ANSWERS):
                yield b"answer"

        return generator if shape.streams_answer else coroutine


KINDS: dict[Stack, dict[str, Callable[[Servicer, Shape], Callable[..., Any]]]] = {
    Stack.SYNC: {
        "functions": Servicer.functions,
        "methods": Servicer.methods,
        "iterators": Servicer.iterators,
    },
    Stack.ASYNCIO: {
        "coroutines": Servicer.coroutines,
        "readers": Servicer.readers,
        "functions": Servicer.functions,
        "methods": Servicer.methods,
        "iterators": Servicer.iterators,
    },
}


def handlers_of_kind(servicer: Servicer, stack: Stack, kind: str) -> dict[str, Handler]:
    """Handlers of one kind for every shape, guarded, public and without a policy."""
    return {
        shape.path(demand): shape.handler(KINDS[stack][kind](servicer, shape))
        for shape in Shape
        for demand in ("Guarded", "Public", "Unlisted")
    }


class Generic(grpc.GenericRpcHandler):
    """Handlers by path."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(handler_call_details.method)


@contextlib.contextmanager
def serve_sync(
    handlers: grpc.GenericRpcHandler,
    interceptors: Sequence[Any],
    *,
    threads: int = 4,
    prepare: Callable[[Any], None] = lambda _: None,
) -> Iterator[int]:
    """Run a `grpc.server`; gives its port."""
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool, interceptors=list(interceptors))
        server.add_generic_rpc_handlers((handlers,))
        prepare(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@contextlib.contextmanager
def serve_asyncio(
    handlers: grpc.GenericRpcHandler,
    interceptors: Sequence[Any],
    *,
    prepare: Callable[[Any], None] = lambda _: None,
) -> Iterator[int]:
    """Run a `grpc.aio.server` in a loop of its own; gives its port."""
    started = threading.Event()
    address: list[Any] = []

    async def main() -> None:
        server = grpc.aio.server(interceptors=list(interceptors))
        server.add_generic_rpc_handlers((handlers,))
        prepare(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stop = asyncio.Event()
        address.extend((port, asyncio.get_running_loop(), stop))
        started.set()
        await stop.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(TIMEOUT)
    port, loop, stop = address
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the server did not stop"


def serve(
    stack: Stack, handlers: grpc.GenericRpcHandler, interceptors: Sequence[Any], **options: Any
) -> contextlib.AbstractContextManager[int]:
    return (serve_sync if stack is Stack.SYNC else serve_asyncio)(handlers, interceptors, **options)


@contextlib.contextmanager
def connect(port: int) -> Iterator[Any]:
    """A channel of a connection of its own; Any, as the stubs know no calls without serialisers."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    code: grpc.StatusCode
    reason: rpz_auth.Reason | None
    messages: int


def call(
    channel: Any,
    path: str,
    shape: Shape,
    metadata: Metadata = (),
    messages: Sequence[bytes] = (b"message",),
) -> tuple[Answer, Any]:
    """Make a call; gives what came of it, and the call for its details and trailing metadata."""
    make = {
        Shape.UNARY_UNARY: channel.unary_unary,
        Shape.UNARY_STREAM: channel.unary_stream,
        Shape.STREAM_UNARY: channel.stream_unary,
        Shape.STREAM_STREAM: channel.stream_stream,
    }
    request: Any = iter(messages) if shape.streams_request else messages[0]
    callable_ = make[shape](path)
    received = 0
    try:
        if shape.streams_answer:
            outcome = callable_(request, metadata=metadata, timeout=TIMEOUT)
            for _ in outcome:
                received += 1
        else:
            _, outcome = callable_.with_call(request, metadata=metadata, timeout=TIMEOUT)
            received = 1
    except grpc.RpcError as error:
        return Answer(error.code(), rpz_auth.reason_of(error), received), error
    return Answer(outcome.code(), None, received), outcome
