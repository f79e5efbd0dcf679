"""Streams that run when their credential stops to hold, on both stacks."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import rpz_auth
from rpz_auth.address import UNKNOWN
from rpz_auth.caller import Verdict
from rpz_auth.decide import Decider, Decision, run
from rpz_auth.errors import Reason, Refusal
from rpz_auth.grpc.aio_context import CallContext
from rpz_auth.grpc.handlers import behaviour_of
from rpz_auth.question import ApiTokenQuestion, Question, StandingQuestion
from rpz_auth.service.running import RunningStreams
from rpz_auth.service.timers import Timers
from rpz_auth.testing import APP_ID, FakeAuthority
from rpz_auth.view import AppState, Change, Revocation, SigningKeys, Standing
from support.grpc_servers import (
    RESOURCE,
    SCOPE,
    TIMEOUT,
    Answer,
    Generic,
    Metadata,
    Servicer,
    Shape,
    Stack,
    call,
    connect,
    interceptor,
    serve,
)

_C = grpc.StatusCode
STREAMS = [Shape.UNARY_STREAM, Shape.STREAM_UNARY, Shape.STREAM_STREAM]
LATEST = 5.0
"""Seconds within which a stream must have ended; how long it takes is measured elsewhere."""


@pytest.fixture
def authority() -> FakeAuthority:
    return FakeAuthority()


class Handlers:
    """Handlers of every kind that run until somebody ends them, and tell what reached them."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ended = threading.Event()
        self.received: list[bytes] = []
        self.release = threading.Event()
        """Lets idle handlers that sit in a thread go home."""

    def _take(self, message: bytes) -> None:
        self.received.append(message)
        self.began.set()

    def coroutine(self, shape: Shape, *, busy: bool) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> bytes:
            try:
                if shape.streams_request and busy:
                    async for message in request:
                        self._take(message)
                self.began.set()
                while shape.streams_answer and busy:
                    await context.write(b"answer")
                await asyncio.Event().wait()
                return b"answer"
            finally:
                self.ended.set()

        return call

    def generator(self, shape: Shape, *, busy: bool) -> Callable[..., Any]:
        async def call(request: Any, _context: Any) -> AsyncIterator[bytes]:
            try:
                self.began.set()
                if shape.streams_request and busy:
                    async for message in request:
                        self._take(message)
                        yield b"answer"
                while busy:
                    yield b"answer"
                await asyncio.Event().wait()
            finally:
                self.ended.set()

        return call if shape.streams_answer else self.coroutine(shape, busy=busy)

    def function(self, shape: Shape, *, busy: bool) -> Callable[..., Any]:
        def one(request: Any, _context: Any) -> bytes:
            try:
                if busy:
                    for message in request:
                        self._take(message)
                self.began.set()
                self.release.wait(TIMEOUT)
                return b"answer"
            finally:
                self.ended.set()

        def many(request: Any, _context: Any) -> Iterator[bytes]:
            try:
                self.began.set()
                if shape.streams_request and busy:
                    for message in request:
                        self._take(message)
                        yield b"answer"
                while busy:
                    yield b"answer"
                self.release.wait(TIMEOUT)
            finally:
                self.ended.set()

        return many if shape.streams_answer else one


KINDS = [
    (Stack.ASYNCIO, "coroutine"),
    (Stack.ASYNCIO, "generator"),
    (Stack.ASYNCIO, "function"),
    (Stack.SYNC, "function"),
]


class Stream:
    """A stream that a client has open, and reads in a thread of its own."""

    def __init__(self, channel: Any, shape: Shape, metadata: Metadata, *, busy: bool) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._busy = busy
        self.messages = 0
        make = {
            Shape.UNARY_STREAM: channel.unary_stream,
            Shape.STREAM_UNARY: channel.stream_unary,
            Shape.STREAM_STREAM: channel.stream_stream,
        }[shape](shape.path())
        request: Any = self._send() if shape.streams_request else b"message"
        call = make if shape.streams_answer else make.future
        self.call = call(request, metadata=metadata, timeout=TIMEOUT)
        self._thread = threading.Thread(target=self._read, args=(shape.streams_answer,))
        self._thread.start()

    def _send(self) -> Iterator[bytes]:
        while not self._stopped.is_set():
            if self._busy:
                yield b"message"
                self._stopped.wait(0.001)
            else:
                self._stopped.wait(TIMEOUT)

    def _read(self, streams: bool) -> None:  # noqa: FBT001 - from Thread
        try:
            if streams:
                for _ in self.call:
                    self.messages += 1
            else:
                self.call.result()
        except grpc.RpcError:
            pass
        finally:
            self._stopped.set()

    def outcome(self) -> tuple[grpc.StatusCode, rpz_auth.Reason | None]:
        self._thread.join(LATEST)
        ended = not self._thread.is_alive()
        self.call.cancel()
        self._stopped.set()
        self._thread.join(TIMEOUT)
        assert ended, "the stream went on"
        return self.call.code(), rpz_auth.reason_of(self.call)


def _end_by_revocation(authority: FakeAuthority, token: rpz_auth.AccessToken) -> None:
    authority.revoke(token)


def _end_by_lock(authority: FakeAuthority, _token: Any) -> None:
    authority.lock()


def _end_by_whitelist(authority: FakeAuthority, _token: Any) -> None:
    authority.whitelist(["192.0.2.0/24"])


def _end_by_silence(authority: FakeAuthority, _token: Any) -> None:
    authority.cut_off()


ENDS = {
    "revoked": (_end_by_revocation, (_C.UNAUTHENTICATED, rpz_auth.Reason.TOKEN_INVALID)),
    "locked": (_end_by_lock, (_C.UNAUTHENTICATED, rpz_auth.Reason.TOKEN_INVALID)),
    "whitelist": (_end_by_whitelist, (_C.PERMISSION_DENIED, rpz_auth.Reason.ORIGIN_NOT_ALLOWED)),
    "silence": (_end_by_silence, (_C.UNAVAILABLE, rpz_auth.Reason.BACKEND_UNAVAILABLE)),
}
# Nothing but a cancellation reaches the client of a synchronous server whose handler does nothing, or sits in
# a read; and a client that is in the middle of sending may see that before the status.
CANCELLED = (_C.CANCELLED, None)


def expected(stack: Stack, told: tuple[Any, Any]) -> set[tuple[Any, Any]]:
    return {told} if stack is Stack.ASYNCIO else {told, CANCELLED}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("shape", STREAMS, ids=lambda shape: shape.name.lower())
@pytest.mark.parametrize(("stack", "kind"), KINDS, ids=lambda value: getattr(value, "value", value))
def test_r124_r077_a82_a91_a92_a93_a_stream_ends_when_its_credential_does(
    authority: FakeAuthority, stack: Stack, kind: str, shape: Shape, *, busy: bool, end: str
) -> None:
    handlers = Handlers()
    behaviour = shape.handler(getattr(handlers, kind)(shape, busy=busy))
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    act, told = ENDS[end]
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({shape.path(): behaviour}), [auth]) as port,
        connect(port) as channel,
    ):
        stream = Stream(channel, shape, (("authorization", token.field_value()),), busy=busy)
        assert handlers.began.wait(TIMEOUT)
        act(authority, token)
        received = len(handlers.received)
        try:
            assert stream.outcome() in expected(stack, told)
        finally:
            handlers.release.set()
        assert handlers.ended.wait(TIMEOUT)
        # One may have been on its way to the handler in the very moment.
        assert len(handlers.received) <= received + 1
        assert not auth._streams._leases
        assert not auth._streams._index


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("shape", STREAMS, ids=lambda shape: shape.name.lower())
@pytest.mark.parametrize(("stack", "kind"), KINDS, ids=lambda value: getattr(value, "value", value))
def test_r124_a90_a93_a_stream_ends_when_its_token_expires(
    authority: FakeAuthority, stack: Stack, kind: str, shape: Shape, *, busy: bool
) -> None:
    handlers = Handlers()
    behaviour = shape.handler(getattr(handlers, kind)(shape, busy=busy))
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({shape.path(): behaviour}), [auth]) as port,
        connect(port) as channel,
    ):
        token = authority.access_token(resource=RESOURCE, scopes=[SCOPE], expires_in=0.5)
        stream = Stream(channel, shape, (("authorization", token.field_value()),), busy=busy)
        assert handlers.began.wait(TIMEOUT)
        try:
            told = (_C.UNAUTHENTICATED, rpz_auth.Reason.TOKEN_EXPIRED)
            assert stream.outcome() in expected(stack, told)
        finally:
            handlers.release.set()
        assert not auth._streams._leases


@pytest.mark.parametrize("stack", Stack)
def test_a_busy_generator_ends_with_a_status_that_says_why_on_both_stacks(
    authority: FakeAuthority, stack: Stack
) -> None:
    shape, handlers = Shape.UNARY_STREAM, Handlers()
    kind = handlers.generator if stack is Stack.ASYNCIO else handlers.function
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({shape.path(): shape.handler(kind(shape, busy=True))}), [auth]) as port,
        connect(port) as channel,
    ):
        stream = Stream(channel, shape, (("authorization", token.field_value()),), busy=True)
        assert handlers.began.wait(TIMEOUT)
        authority.revoke(token)
        assert stream.outcome() == (_C.UNAUTHENTICATED, rpz_auth.Reason.TOKEN_INVALID)


@pytest.mark.parametrize("stack", Stack)
def test_other_streams_and_public_ones_go_on(authority: FakeAuthority, stack: Stack) -> None:
    shape, handlers = Shape.UNARY_STREAM, Handlers()
    kind = handlers.generator if stack is Stack.ASYNCIO else handlers.function
    guarded, public = (shape.handler(kind(shape, busy=False)) for _ in range(2))
    tokens = [authority.access_token(resource=RESOURCE, scopes=[SCOPE]) for _ in range(2)]
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({shape.path(): guarded, shape.path("Public"): public}), [auth]) as port,
        connect(port) as channel,
    ):
        revoked, other = (
            Stream(channel, shape, (("authorization", token.field_value()),), busy=False) for token in tokens
        )
        anonymous = channel.unary_stream(shape.path("Public"))(b"", timeout=TIMEOUT)
        while len(auth._streams._leases) < 2:
            threading.Event().wait(0.01)
        authority.revoke(tokens[0])
        assert revoked.outcome()[0] in {_C.UNAUTHENTICATED, _C.CANCELLED}
        assert len(auth._streams._leases) == 1
        assert other.call.is_active()
        assert anonymous.is_active()
        handlers.release.set()
        other.call.cancel()
        anonymous.cancel()
        other._thread.join(TIMEOUT)


async def test_a_handler_that_swallows_its_cancellation_delivers_nothing_more(
    authority: FakeAuthority,
) -> None:
    shape = Shape.STREAM_STREAM
    began = asyncio.Event()
    outcomes: list[str] = []
    finished = asyncio.Event()

    async def stubborn(request: Any, context: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcomes.append("cancelled")
        for act in (context.write(b"late"), context.read(), anext(request)):
            try:
                await act
            except Exception as error:  # noqa: BLE001 - it is stubborn
                outcomes.append(type(error).__name__)
        finished.set()

    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    async with interceptor(authority) as auth:
        server = grpc.aio.server(interceptors=[auth])
        server.add_generic_rpc_handlers((Generic({shape.path(): shape.handler(stubborn)}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            pending: Any = channel.stream_stream(shape.path())(
                metadata=(("authorization", token.field_value()),)
            )
            await began.wait()
            await pending.write(b"message")
            authority.revoke(token)
            assert await pending.code() is _C.UNAUTHENTICATED
            await finished.wait()
        await server.stop(None)
    assert outcomes == ["cancelled", "AbortError", "AbortError", "AbortError"]


def test_a_stream_whose_client_reads_nothing_ends_all_the_same(authority: FakeAuthority) -> None:
    """The status waits behind messages that the client does not read; so does nobody for long."""
    shape, began, ended = Shape.UNARY_STREAM, threading.Event(), threading.Event()

    async def flood(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(65536)
                began.set()
        finally:
            ended.set()

    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    with (
        interceptor(authority) as auth,
        serve(Stack.ASYNCIO, Generic({shape.path(): shape.handler(flood)}), [auth]) as port,
        connect(port) as channel,
    ):
        pending = channel.unary_stream(shape.path())(b"", metadata=(("authorization", token.field_value()),))
        assert began.wait(TIMEOUT)
        authority.revoke(token)
        assert ended.wait(LATEST)
        assert not auth._streams._leases
        pending.cancel()


class Moment:
    """Handlers of every kind that have their own credential revoked, and then answer."""

    def __init__(self, authority: FakeAuthority) -> None:
        self.token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
        self._authority = authority

    def revoke(self) -> None:
        self._authority.revoke(self.token)

    async def coroutine(self, _request: Any, _context: Any) -> bytes:
        self.revoke()
        return b"answer"

    async def writer(self, _request: Any, context: Any) -> None:
        self.revoke()
        await context.write(b"answer")

    async def generator(self, _request: Any, _context: Any) -> AsyncIterator[bytes]:
        self.revoke()
        yield b"answer"

    def function(self, _request: Any, _context: Any) -> bytes:
        self.revoke()
        return b"answer"

    def functions(self, _request: Any, _context: Any) -> Iterator[bytes]:
        self.revoke()
        yield b"answer"

    @property
    def callback(self) -> Callable[..., None]:
        def call(_request: Any, _context: Any, send: Callable[[bytes | None], None]) -> None:
            self.revoke()
            send(b"answer")
            send(None)

        vars(call)["experimental_non_blocking"] = True
        return call


@pytest.mark.parametrize(
    ("stack", "shape", "kind"),
    [
        (Stack.ASYNCIO, Shape.STREAM_UNARY, "coroutine"),
        (Stack.ASYNCIO, Shape.STREAM_UNARY, "function"),
        (Stack.ASYNCIO, Shape.UNARY_STREAM, "writer"),
        (Stack.ASYNCIO, Shape.UNARY_STREAM, "generator"),
        (Stack.ASYNCIO, Shape.UNARY_STREAM, "functions"),
        (Stack.SYNC, Shape.STREAM_UNARY, "function"),
        (Stack.SYNC, Shape.UNARY_STREAM, "functions"),
        (Stack.SYNC, Shape.UNARY_STREAM, "callback"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_r077_an_answer_of_the_moment_in_which_its_credential_stops_is_not_sent(
    authority: FakeAuthority, stack: Stack, shape: Shape, kind: str
) -> None:
    """Before anything else has had the time to end the stream."""
    moment = Moment(authority)
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({shape.path(): shape.handler(getattr(moment, kind))}), [auth]) as port,
        connect(port) as channel,
    ):
        answer, _ = call(channel, shape.path(), shape, (("authorization", moment.token.field_value()),))
        assert answer == Answer(_C.UNAUTHENTICATED, Reason.TOKEN_INVALID, 0)
        assert len(auth._streams) == 0


class Reading:
    """The context of a call, in which something happens whenever a message has arrived."""

    def __init__(self, context: Any, happens: Callable[[], None]) -> None:
        self._context = context
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        message = await self._context.read()
        self._happens()
        return message


class Around(grpc.aio.ServerInterceptor):
    """Puts a function of (behaviour, request, context) around each guarded behaviour."""

    def __init__(self, around: Callable[[Callable[..., Any], Any, Any], Any]) -> None:
        self._around = around

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        shape = Shape((handler.request_streaming, handler.response_streaming))
        behaviour = behaviour_of(handler)

        async def coroutine(request: Any, context: Any) -> Any:
            return await self._around(behaviour, request, context)

        async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
            async for answer in self._around(behaviour, request, context):
                yield answer

        return shape.handler(generator if shape.streams_answer else coroutine)


def test_r077_a_message_of_the_moment_in_which_its_credential_stops_reaches_no_handler(
    authority: FakeAuthority,
) -> None:
    shape, received = Shape.STREAM_UNARY, []
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])

    async def around(behaviour: Callable[..., Any], request: Any, context: Any) -> Any:
        return await behaviour(request, Reading(context, lambda: authority.revoke(token)))

    async def handler(_request: Any, context: Any) -> bytes:
        received.append(await context.read())
        return b"answer"

    with (
        interceptor(authority) as auth,
        serve(Stack.ASYNCIO, Generic({shape.path(): shape.handler(handler)}), [Around(around), auth]) as port,
        connect(port) as channel,
    ):
        answer, _ = call(channel, shape.path(), shape, (("authorization", token.field_value()),))
    assert answer == Answer(_C.UNAUTHENTICATED, Reason.TOKEN_INVALID, 0)
    assert received == []


def test_a_stream_that_ends_by_itself_while_its_last_answer_is_sent_has_ended_well(
    authority: FakeAuthority,
) -> None:
    shape, contexts = Shape.UNARY_STREAM, list[CallContext]()
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])

    async def handler(_request: bytes, context: CallContext) -> AsyncIterator[bytes]:
        contexts.append(context)
        yield b"answer"

    async def around(behaviour: Callable[..., Any], request: Any, context: Any) -> AsyncIterator[bytes]:
        async for answer in behaviour(request, context):
            authority.revoke(token)
            # Until what ends the stream waits for this answer.
            while contexts[0]._sent is None:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0)
            yield answer
        (context,) = contexts
        assert context._expulsion is not None
        await context._expulsion  # there may be much left to do behind the handler

    with (
        interceptor(authority) as auth,
        serve(Stack.ASYNCIO, Generic({shape.path(): shape.handler(handler)}), [Around(around), auth]) as port,
        connect(port) as channel,
    ):
        answer, _ = call(channel, shape.path(), shape, (("authorization", token.field_value()),))
    assert answer == Answer(_C.OK, None, 1)


@pytest.mark.parametrize("stack", Stack)
@pytest.mark.parametrize("shape", STREAMS, ids=lambda shape: shape.name.lower())
def test_r077_a_stream_whose_credential_stops_behind_its_decision_does_not_begin(
    authority: FakeAuthority, stack: Stack, shape: Shape
) -> None:
    servicer = Servicer()
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    handlers = Generic({shape.path(): shape.handler(servicer.functions(shape))})
    with (
        interceptor(authority) as auth,
        serve(stack, handlers, [auth]) as port,
        connect(port) as channel,
    ):
        decided: list[Reason | None] = []
        auth.on_decision(decided.append)
        auth.on_decision(lambda _: authority.revoke(token))
        answer, _ = call(channel, shape.path(), shape, (("authorization", token.field_value()),))
        assert len(auth._streams) == 0
    assert decided == [None]
    assert answer == Answer(_C.UNAUTHENTICATED, Reason.TOKEN_INVALID, 0)
    assert servicer.log.take() == []


def test_no_lease_is_had_with_a_credential_that_has_stopped(authority: FakeAuthority) -> None:
    authority.start()
    streams, ended = _streams_of(authority)
    caller = _caller(authority)
    authority.lock()
    with pytest.raises(rpz_auth.TokenInvalid):
        streams.lease(caller, ended.append, _unasked)
    assert len(streams) == 0


def test_what_happens_after_its_end_does_not_concern_a_stream() -> None:
    now = [1e9]
    authority = FakeAuthority(clock=lambda: now[0])
    authority.start()
    streams, ended = _streams_of(authority)
    caller = _caller(authority)
    caller = replace(caller, verdict=replace(caller.verdict, expires_at=now[0] + 0.05))
    lease = streams.lease(caller, ended.append, _unasked)
    lease.release()
    now[0] += 1
    looked = threading.Event()
    streams.later(0.05, looked.set)  # due behind the stream's own look
    assert looked.wait(LATEST)
    authority.lock()
    lease.check()
    assert ended == []


class Telling(FakeAuthority):
    """An authority that, asked about streams, tells what a test says."""

    standing: Standing

    def ask(self, question: Question) -> Verdict | Standing:
        return self.standing if isinstance(question, StandingQuestion) else super().ask(question)

    def tell(self, *revocations: Revocation, **state: Any) -> None:
        app = AppState(**{"app_id": APP_ID, "version": 1, **state})
        self.standing = Standing(revocations, (app,), self._keys())


def test_r077_what_is_learned_about_a_stream_holds_for_calls_too() -> None:
    authority = Telling()
    authority.start()
    streams, _ = _streams_of(authority)
    caller, done = _caller(authority), queue.SimpleQueue[Refusal]()
    authority.fall_silent()
    authority.tell(Revocation(caller.verdict.token_id, math.inf))
    streams.lease(caller, done.put, _unasked)
    assert done.get(timeout=TIMEOUT).reason is Reason.TOKEN_INVALID
    assert authority.view.is_revoked(caller.verdict.token_id)


def test_r077_a_stream_ends_by_a_lower_version_of_a_restored_database() -> None:
    authority = Telling()
    authority.start()
    streams, _ = _streams_of(authority)
    caller, done = _caller(authority), queue.SimpleQueue[Refusal]()
    authority.view.apply([AppState(app_id=APP_ID, version=9)])
    authority.fall_silent()
    authority.tell(version=2, locked=True)
    streams.lease(caller, done.put, _unasked)
    assert done.get(timeout=TIMEOUT).reason is Reason.TOKEN_INVALID


def test_a_stream_that_cannot_be_ended_keeps_no_other_from_its_end(authority: FakeAuthority) -> None:
    authority.start()
    streams, ended = _streams_of(authority)
    caller = _caller(authority)

    def fail(_refusal: Refusal) -> None:
        raise RuntimeError("the loop is closed")

    leases = [streams.lease(caller, end, _unasked) for end in (fail, ended.append, fail)]
    authority.lock()
    assert [lease.refusal is not None for lease in leases] == [True] * 3
    assert [refusal.reason for refusal in ended] == [Reason.TOKEN_INVALID]
    assert len(streams) == 0


def test_a_stream_ends_when_a_question_brings_the_news(authority: FakeAuthority) -> None:
    """While the authority is silent, what a call learns by asking counts for streams that are served."""
    authority.start()
    streams, ended = _streams_of(authority)
    streams.lease(_caller(authority), ended.append, _unasked)
    view = authority.view
    view.take(Standing((), (), SigningKeys('{"keys": []}', locked=True)), view.moment())
    assert [refusal.reason for refusal in ended] == [Reason.TOKEN_INVALID]


def _unasked() -> Decision:
    raise AssertionError("what an access token says of itself does not change")


class Changing(FakeAuthority):
    """An authority whose API tokens lose what is taken from their App, and which may be slow to say so."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.left: dict[str, Any] = {}
        """What its answers say instead."""
        self.asked: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self.answering = threading.Event()
        self.answering.set()
        self.deaf = False

    def ask(self, question: Question) -> Verdict | Standing:
        self.asked.put(question)
        assert self.answering.wait(TIMEOUT)
        if self.deaf:
            raise rpz_auth.BackendUnavailable
        answer = super().ask(question)
        return replace(answer, **self.left) if isinstance(answer, Verdict) else answer

    def take(self, **left: Any) -> None:
        """Change what the App's tokens are good for, and tell that the App has changed."""
        self.left = left
        self.whitelist([])


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize(("stack", "kind"), KINDS, ids=lambda value: getattr(value, "value", value))
def test_a_stream_ends_when_its_api_token_loses_the_scope(stack: Stack, kind: str, *, busy: bool) -> None:
    authority, shape, handlers = Changing(), Shape.STREAM_STREAM, Handlers()
    behaviour = shape.handler(getattr(handlers, kind)(shape, busy=busy))
    token = authority.api_token(resource=RESOURCE, scopes=[SCOPE])
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({shape.path(): behaviour}), [auth]) as port,
        connect(port) as channel,
    ):
        stream = Stream(channel, shape, (("authorization", token.field_value()),), busy=busy)
        assert handlers.began.wait(TIMEOUT)
        authority.take(scopes=frozenset({"other"}))
        try:
            told = (_C.PERMISSION_DENIED, Reason.SCOPE_INSUFFICIENT)
            assert stream.outcome() in expected(stack, told)
        finally:
            handlers.release.set()
        assert handlers.ended.wait(TIMEOUT)
        assert not auth._streams._leases


def test_a_stream_of_an_api_token_that_keeps_what_it_needs_goes_on_until_its_new_end() -> None:
    authority = Changing()
    authority.start()
    streams, ended = _streams_of(authority)
    caller, again = _caller_by_api_token(authority)
    done: queue.SimpleQueue[Refusal] = queue.SimpleQueue()
    leases = [streams.lease(caller, end, again) for end in (done.put, ended.append)]
    while not authority.asked.empty():
        authority.asked.get()
    authority.take(expires_at=authority.view.now() + 0.5)
    assert done.get(timeout=TIMEOUT).reason is Reason.TOKEN_EXPIRED
    assert leases[0].caller.verdict.expires_at < authority.view.now()
    assert authority.asked.qsize() == 1, "both were decided about by one answer"


def _undecided(authority: Changing, when_stale: rpz_auth.WhenStale) -> queue.SimpleQueue[Refusal]:
    """A stream whose App changes while questions get no answer; and what ends it."""
    authority.start()
    streams, _ = _streams_of(authority)
    caller, again = _caller_by_api_token(authority)
    done: queue.SimpleQueue[Refusal] = queue.SimpleQueue()
    streams.lease(caller, done.put, again, when_stale=when_stale)
    while not authority.asked.empty():
        authority.asked.get()
    authority.deaf = True
    authority.take(scopes=frozenset({"other"}))
    return done


def _await_questions(authority: Changing) -> None:
    for _ in range(3):
        assert isinstance(authority.asked.get(timeout=TIMEOUT), ApiTokenQuestion)


def test_a_question_without_an_answer_is_repeated_though_not_without_end() -> None:
    """Heartbeats may go on while questions fail: a scope that was taken must not last as long."""
    now = [1e9]
    authority = Changing(clock=lambda: now[0])
    done = _undecided(authority, rpz_auth.CHECK)
    _await_questions(authority)
    now[0] += 9.9
    _await_questions(authority)
    assert done.empty()
    now[0] += 0.2
    assert done.get(timeout=TIMEOUT).reason is Reason.BACKEND_UNAVAILABLE


def test_a_stream_that_is_served_without_answers_goes_on_and_is_decided_about_later() -> None:
    now = [1e9]
    authority = Changing(clock=lambda: now[0])
    done = _undecided(authority, rpz_auth.serve(until=60))
    authority.fall_silent()
    now[0] += 50
    _await_questions(authority)
    assert done.empty()
    authority.restore()
    _await_questions(authority)
    assert done.empty(), "it works again, and gets as long for its answer as ever"
    authority.deaf = False
    assert done.get(timeout=TIMEOUT).reason is Reason.SCOPE_INSUFFICIENT


class NoThreads:
    """A machine that has no more threads, for as long as it is asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.none_left = True
        start = threading.Thread.start

        def start_if_any(thread: threading.Thread) -> None:
            if self.none_left:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_if_any)


def test_without_threads_what_was_revoked_ends_and_the_rest_is_decided_about_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = Changing()
    authority.start()
    streams, ended = _streams_of(authority)
    (revoked, again), (other, other_again) = (_caller_by_api_token(authority) for _ in range(2))
    done: queue.SimpleQueue[Refusal] = queue.SimpleQueue()
    for _ in range(20):  # in any order
        streams.lease(revoked, ended.append, again)
        streams.lease(other, done.put, other_again)
    threads = NoThreads(monkeypatch)
    authority.left = {"scopes": frozenset({"other"})}
    assert revoked.verdict.token_id is not None
    news: list[Change] = [
        AppState(app_id=revoked.app_id, version=1000),
        Revocation(revoked.verdict.token_id, math.inf),
    ]
    with pytest.raises(RuntimeError, match="thread"):
        authority.view.apply(news)
    assert [refusal.reason for refusal in ended] == [Reason.TOKEN_INVALID] * 20
    threads.none_left = False
    authority.view.apply([AppState(app_id=revoked.app_id, version=1001)])
    for _ in range(20):
        assert done.get(timeout=TIMEOUT).reason is Reason.SCOPE_INSUFFICIENT


def test_a_timer_that_gets_no_thread_runs_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    timers, ran = Timers(), queue.SimpleQueue[int]()
    threads = NoThreads(monkeypatch)
    with pytest.raises(RuntimeError, match="thread"):
        timers.add(0.0, lambda: ran.put(1))
    threads.none_left = False
    timers.add(0.0, lambda: ran.put(2))
    assert [ran.get(timeout=LATEST), ran.get(timeout=LATEST)] == [1, 2]


def test_timers_run_while_a_question_waits_for_its_answer() -> None:
    """On a synchronous server it is a timer that ends an idle stream."""
    authority = Changing()
    authority.start()
    streams, ended = _streams_of(authority)
    caller = _caller(authority)
    authority.fall_silent()
    authority.answering.clear()
    streams.lease(caller, ended.append, _unasked)
    authority.asked.get(timeout=TIMEOUT)
    ran = threading.Event()
    streams.later(0.0, ran.set)
    assert ran.wait(LATEST)
    authority.answering.set()


def _caller_by_api_token(authority: FakeAuthority) -> tuple[rpz_auth.Caller, Callable[[], Decision]]:
    decider = Decider(authority.view, issuer=authority.issuer, resource=RESOURCE)
    token = authority.api_token(resource=RESOURCE, scopes=[SCOPE])
    metadata = (("authorization", token.field_value()),)

    def again() -> Decision:
        return decider.decide(rpz_auth.scopes(SCOPE), metadata, UNKNOWN)

    caller = run(again(), authority.ask).caller
    assert caller is not None
    return caller, again


def _streams_of(authority: FakeAuthority) -> tuple[RunningStreams, list[Refusal]]:
    decider = Decider(authority.view, issuer=authority.issuer, resource=RESOURCE)
    return RunningStreams(decider, authority.ask), []


def _caller(authority: FakeAuthority) -> rpz_auth.Caller:
    decider = Decider(authority.view, issuer=authority.issuer, resource=RESOURCE)
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    metadata = (("authorization", token.field_value()),)
    caller = run(decider.decide(rpz_auth.scopes(SCOPE), metadata, UNKNOWN), authority.ask).caller
    assert caller is not None
    return caller


def test_a_unary_call_that_was_let_in_is_let_finish(authority: FakeAuthority) -> None:
    """What it did is done: a client that is told otherwise would do it again."""
    shape, began, release = Shape.UNARY_UNARY, threading.Event(), threading.Event()

    def slow(_request: bytes, _context: Any) -> bytes:
        began.set()
        assert release.wait(TIMEOUT)
        return b"answer"

    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    with (
        interceptor(authority) as auth,
        serve(Stack.SYNC, Generic({shape.path(): shape.handler(slow)}), [auth]) as port,
        connect(port) as channel,
    ):
        metadata = (("authorization", token.field_value()),)
        pending = channel.unary_unary(shape.path()).future(b"", metadata=metadata)
        assert began.wait(TIMEOUT)
        authority.revoke(token)
        release.set()
        assert pending.result(TIMEOUT) == b"answer"
