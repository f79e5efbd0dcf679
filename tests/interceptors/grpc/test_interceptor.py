from __future__ import annotations

import asyncio
import base64
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import rpz_auth
from rpz_auth import Reason
from rpz_auth.testing import FakeAuthority
from support.grpc_servers import (
    ANSWERS,
    KINDS,
    RESOURCE,
    SCOPE,
    SERVICE,
    Answer,
    Generic,
    Handler,
    Metadata,
    Seen,
    Servicer,
    Shape,
    Stack,
    call,
    connect,
    handlers_of_kind,
    interceptor,
    policies,
    serve,
)

_C = grpc.StatusCode
_USER = "user:1"
LOCKED_APP = "00000000-0000-4000-8000-00000000000a"
DISTANT_APP = "00000000-0000-4000-8000-00000000000b"
LOCAL_APP = "00000000-0000-4000-8000-00000000000c"


@dataclass(frozen=True)
class Case:
    """One line of the matrix: what is sent, and what must come of it on every stack, shape and kind."""

    metadata: Metadata
    code: grpc.StatusCode = _C.OK
    reason: Reason | None = None
    subject: str | None = None
    demand: str = "Guarded"


def _refused(metadata: Metadata, reason: Reason, demand: str = "Guarded") -> Case:
    codes = {
        Reason.CREDENTIALS_AMBIGUOUS: _C.INVALID_ARGUMENT,
        Reason.SCOPE_INSUFFICIENT: _C.PERMISSION_DENIED,
        Reason.ORIGIN_NOT_ALLOWED: _C.PERMISSION_DENIED,
        Reason.METHOD_UNKNOWN: _C.UNIMPLEMENTED,
        Reason.BACKEND_UNAVAILABLE: _C.UNAVAILABLE,
    }
    return Case(metadata, codes.get(reason, _C.UNAUTHENTICATED), reason, demand=demand)


def _matrix(authority: FakeAuthority) -> dict[str, Case]:
    """Every credential, by name."""

    def access(**options: Any) -> str:
        return authority.access_token(resource=RESOURCE, scopes=[SCOPE], **options).field_value()

    def api(**options: Any) -> str:
        return authority.api_token(resource=RESOURCE, scopes=[SCOPE], **options).field_value()

    good, good_api = access(), api()
    scopeless = authority.access_token(resource=RESOURCE, scopes=["another.scope"]).field_value()
    scopeless_api = authority.api_token(resource=RESOURCE, scopes=["another.scope"]).field_value()
    elsewhere = authority.access_token(resource="https://elsewhere", scopes=[SCOPE]).field_value()
    foreign = authority.foreign_token(resource=RESOURCE, scopes=[SCOPE]).field_value()
    revoked = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    revoked_api = authority.api_token(resource=RESOURCE, scopes=[SCOPE])
    authority.revoke(revoked)
    authority.revoke(revoked_api)
    unknown_api = FakeAuthority().api_token(resource=RESOURCE, scopes=[SCOPE]).field_value()
    locked, locked_api = access(app_id=LOCKED_APP), api(app_id=LOCKED_APP)
    authority.lock(app_id=LOCKED_APP)
    authority.whitelist(["192.0.2.0/24"], app_id=DISTANT_APP)
    authority.whitelist(["127.0.0.0/8", "::1"], app_id=LOCAL_APP)
    app_subject = f"app:{rpz_auth.testing.APP_ID}"

    def own(value: str) -> Metadata:
        return (("x-rpz-auth", value),)

    def standard(value: str) -> Metadata:
        return (("authorization", value),)

    return {
        "none": _refused((), Reason.CREDENTIALS_MISSING),
        "another scheme": _refused(standard("Negotiate abcd"), Reason.CREDENTIALS_MISSING),
        "access token": Case(standard(good), subject=_USER),
        "access token, own header": Case(own(good), subject=_USER),
        "access token, two spaces": Case(standard(good.replace(" ", "  ")), subject=_USER),
        "access token, lower case": Case(standard(good.replace("Bearer", "bearer")), subject=_USER),
        "API token": Case(standard(good_api), subject=app_subject),
        "API token, own header": Case(own(good_api), subject=app_subject),
        "expired": _refused(standard(access(expires_in=-1)), Reason.TOKEN_EXPIRED),
        "expired API token": _refused(standard(api(expires_in=-1)), Reason.TOKEN_EXPIRED),
        "revoked": _refused(standard(revoked.field_value()), Reason.TOKEN_INVALID),
        "revoked API token": _refused(standard(revoked_api.field_value()), Reason.TOKEN_INVALID),
        "foreign": _refused(standard(foreign), Reason.TOKEN_INVALID),
        "unknown API token": _refused(standard(unknown_api), Reason.TOKEN_INVALID),
        "another resource": _refused(standard(elsewhere), Reason.TOKEN_INVALID),
        "malformed": _refused(standard("Bearer"), Reason.TOKEN_INVALID),
        "not a token": _refused(standard("Bearer abcd"), Reason.TOKEN_INVALID),
        "not base64": _refused(standard("Basic ****"), Reason.TOKEN_INVALID),
        "no password": _refused(
            standard("Basic " + base64.b64encode(b"user").decode()), Reason.TOKEN_INVALID
        ),
        "empty": _refused(standard(""), Reason.TOKEN_INVALID),
        "duplicate": _refused(standard(good) * 2, Reason.CREDENTIALS_AMBIGUOUS),
        "duplicate, good and bad": _refused(
            standard(good) + standard("Bearer x"), Reason.CREDENTIALS_AMBIGUOUS
        ),
        "duplicate, bad and good": _refused(own("Bearer x") + own(good), Reason.CREDENTIALS_AMBIGUOUS),
        "comma-joined": _refused(standard(f"{good},{good}"), Reason.CREDENTIALS_AMBIGUOUS),
        "comma-joined, bad and good": _refused(own(f"Bearer x, {good}"), Reason.CREDENTIALS_AMBIGUOUS),
        "both, equal": Case(own(good) + standard(good), subject=_USER),
        "both, own first": Case(own(good_api) + standard(good), subject=app_subject),
        "both, own last": Case(standard(good) + own(good_api), subject=app_subject),
        "both, own bad": _refused(own("Bearer x") + standard(good), Reason.TOKEN_INVALID),
        "both, own empty": _refused(own("") + standard(good), Reason.TOKEN_INVALID),
        "both, own expired": _refused(own(access(expires_in=-1)) + standard(good), Reason.TOKEN_EXPIRED),
        "both, own of another scheme": _refused(
            own("Negotiate abcd") + standard(good), Reason.CREDENTIALS_MISSING
        ),
        "both, standard bad": Case(own(good) + standard("Bearer x"), subject=_USER),
        "both, standard twice": Case(own(good) + standard("one") + standard("two"), subject=_USER),
        "both, own twice": _refused(own(good) * 2 + standard(good), Reason.CREDENTIALS_AMBIGUOUS),
        "scope short": _refused(standard(scopeless), Reason.SCOPE_INSUFFICIENT),
        "scope short, API token": _refused(own(scopeless_api), Reason.SCOPE_INSUFFICIENT),
        "whitelist miss": _refused(standard(access(app_id=DISTANT_APP)), Reason.ORIGIN_NOT_ALLOWED),
        "whitelist miss, API token": _refused(own(api(app_id=DISTANT_APP)), Reason.ORIGIN_NOT_ALLOWED),
        "whitelist hit": Case(standard(access(app_id=LOCAL_APP)), subject=_USER),
        "locked": _refused(standard(locked), Reason.TOKEN_INVALID),
        "locked, API token": _refused(own(locked_api), Reason.TOKEN_INVALID),
        "public, none": Case((), demand="Public"),
        "public, bad": Case(standard("Bearer x") * 2, demand="Public"),
        "public, good": Case(standard(good), demand="Public"),
        "no policy, none": _refused((), Reason.CREDENTIALS_MISSING, "Unlisted"),
        "no policy, bad": _refused(standard("Bearer x"), Reason.TOKEN_INVALID, "Unlisted"),
        "no policy, good": _refused(standard(good), Reason.METHOD_UNKNOWN, "Unlisted"),
        "no method, none": _refused((), Reason.CREDENTIALS_MISSING, "MadeUp"),
        "no method, bad": _refused(standard("Bearer x"), Reason.TOKEN_INVALID, "MadeUp"),
        "no method, good": _refused(own(good), Reason.METHOD_UNKNOWN, "MadeUp"),
        "spelt otherwise": _refused(
            (("x_rpz_auth", good), ("proxy-authorization", good), ("cookie", good)),
            Reason.CREDENTIALS_MISSING,
        ),
        "binary keys": _refused(
            (("authorization-bin", good.encode()), ("x-rpz-auth-bin", good.encode())),
            Reason.CREDENTIALS_MISSING,
        ),
    }


def _expected(case: Case, shape: Shape) -> tuple[Answer, list[Seen]]:
    if case.code is not _C.OK:
        return Answer(case.code, case.reason, 0), []
    authorization = tuple(value for key, value in case.metadata if key == "authorization")
    seen = Seen(case.subject, "127.0.0.1", authorization, (b"message",))
    return Answer(_C.OK, None, ANSWERS if shape.streams_answer else 1), [seen]


_COMBINATIONS = [
    pytest.param(stack, kind, shape, id=f"{stack.value}-{kind}-{shape.name.lower()}")
    for stack, kinds in KINDS.items()
    for kind, shape in itertools.product(kinds, Shape)
]


@pytest.mark.parametrize(("stack", "kind", "shape"), _COMBINATIONS)
def test_r122_r123_a50_a51_a52_a57_a58_a95_the_matrix_of_credentials_has_one_answer(
    stack: Stack, kind: str, shape: Shape
) -> None:
    authority, servicer = FakeAuthority(), Servicer()
    handlers = Generic(handlers_of_kind(servicer, stack, kind))
    with (
        interceptor(authority) as auth,
        serve(stack, handlers, [auth]) as port,
        connect(port) as channel,
    ):
        matrix = _matrix(authority)
        for repeat in ("first", "from the caches"):
            observed = {
                name: (call(channel, shape.path(case.demand), shape, case.metadata)[0], servicer.log.take())
                for name, case in matrix.items()
            }
            assert observed == {name: _expected(case, shape) for name, case in matrix.items()}, repeat


_SHAPES = [
    pytest.param(stack, shape, id=f"{stack.value}-{shape.name.lower()}")
    for stack, shape in itertools.product(Stack, Shape)
]
_FIRST_KIND = {Stack.SYNC: "functions", Stack.ASYNCIO: "coroutines"}


@dataclass
class Service:
    """A running service and all that belongs to it."""

    stack: Stack
    authority: FakeAuthority
    servicer: Servicer
    channel: Any

    @property
    def good(self) -> Metadata:
        token = self.authority.access_token(resource=RESOURCE, scopes=[SCOPE])
        return (("authorization", token.field_value()),)


@pytest.fixture(params=Stack, ids=lambda stack: stack.value)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    stack, authority, servicer = request.param, FakeAuthority(), Servicer()
    handlers = Generic(handlers_of_kind(servicer, stack, _FIRST_KIND[stack]))
    with (
        interceptor(authority) as auth,
        serve(stack, handlers, [auth]) as port,
        connect(port) as channel,
    ):
        yield Service(stack, authority, servicer, channel)


@pytest.mark.parametrize("shape", Shape)
def test_r128_a_service_that_is_cut_off_refuses_what_it_accepted_before(
    service: Service, shape: Shape
) -> None:
    api_token = service.authority.api_token(resource=RESOURCE, scopes=[SCOPE]).field_value()
    credentials: list[Metadata] = [service.good, (("x-rpz-auth", api_token),)]
    unavailable = Answer(_C.UNAVAILABLE, Reason.BACKEND_UNAVAILABLE, 0)
    for metadata in credentials:
        assert call(service.channel, shape.path(), shape, metadata)[0].code is _C.OK
    service.authority.cut_off()
    for metadata in credentials:
        assert call(service.channel, shape.path(), shape, metadata)[0] == unavailable
    assert call(service.channel, shape.path("Public"), shape)[0].code is _C.OK
    assert call(service.channel, shape.path(), shape)[0].reason is Reason.CREDENTIALS_MISSING
    service.authority.restore()
    for metadata in credentials:
        assert call(service.channel, shape.path(), shape, metadata)[0].code is _C.OK
    assert len(service.servicer.log.take()) == 5


@pytest.mark.parametrize(("stack", "shape"), _SHAPES)
def test_before_the_first_snapshot_calls_are_unavailable(stack: Stack, shape: Shape) -> None:
    authority, servicer = FakeAuthority(), Servicer()
    stranger = FakeAuthority().access_token(resource=RESOURCE, scopes=[SCOPE])
    handlers = Generic(handlers_of_kind(servicer, stack, _FIRST_KIND[stack]))
    auth = interceptor(authority)
    with serve(stack, handlers, [auth]) as port, connect(port) as channel:
        metadata = (("authorization", stranger.field_value()),)
        answer, _ = call(channel, shape.path(), shape, metadata)
        assert answer == Answer(_C.UNAVAILABLE, Reason.BACKEND_UNAVAILABLE, 0)
        assert servicer.log.take() == []


class _Faulty(FakeAuthority):
    """An authority that has a fault where a test wants it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def ask(self, question: Any) -> Any:  # noqa: ARG002 - the protocol's
        raise self.error


_SECRET = "the text of a fault"


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("stack", Stack)
@pytest.mark.parametrize(
    "error", [RuntimeError(_SECRET), KeyError(_SECRET), StopIteration(_SECRET)], ids=repr
)
def test_a98_a_fault_in_the_authority_is_internal_and_its_text_stays_in_the_log(
    stack: Stack, shape: Shape, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    authority, servicer = _Faulty(error), Servicer()
    token = authority.api_token(resource=RESOURCE, scopes=[SCOPE])
    handlers = Generic(handlers_of_kind(servicer, stack, _FIRST_KIND[stack]))
    with (
        interceptor(authority) as auth,
        serve(stack, handlers, [auth]) as port,
        connect(port) as channel,
    ):
        metadata = (("x-rpz-auth", token.field_value()),)
        answer, outcome = call(channel, shape.path(), shape, metadata)
    assert answer == Answer(_C.INTERNAL, Reason.INTERNAL, 0)
    assert outcome.details() == "internal error"
    assert _SECRET not in repr(outcome.trailing_metadata())
    assert servicer.log.take() == []
    assert "a call could not be decided" in caplog.text
    assert token.token not in caplog.text


@pytest.mark.parametrize("shape", Shape)
def test_a98_a_fault_in_the_view_is_internal_and_its_text_stays_in_the_log(
    service: Service, shape: Shape, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object) -> None:
        raise RuntimeError(_SECRET)

    monkeypatch.setattr(service.authority.view, "check", fault)
    answer, outcome = call(service.channel, shape.path(), shape, service.good)
    assert answer == Answer(_C.INTERNAL, Reason.INTERNAL, 0)
    assert outcome.details() == "internal error"
    assert _SECRET not in repr(outcome.trailing_metadata())
    assert service.servicer.log.take() == []
    assert _SECRET in caplog.text


@pytest.mark.parametrize("shape", Shape)
def test_r120_a_refusal_tells_one_error_info_and_the_scopes_that_are_missing(
    service: Service, shape: Shape
) -> None:
    token = service.authority.access_token(resource=RESOURCE, scopes=["another.scope"])
    metadata = (("authorization", token.field_value()),)
    _, outcome = call(service.channel, shape.path(), shape, metadata)
    (detail,) = (value for key, value in outcome.trailing_metadata() if key == "grpc-status-details-bin")
    assert SCOPE.encode() in detail
    assert detail.count(b"google.rpc.ErrorInfo") == 1


@pytest.mark.parametrize("shape", Shape)
def test_r121_a_refused_caller_does_not_learn_that_its_message_is_broken(
    service: Service, shape: Shape
) -> None:
    assert call(service.channel, shape.path(), shape)[0].reason is Reason.CREDENTIALS_MISSING


def test_a96_a_unary_method_takes_the_first_message_of_a_stream(service: Service) -> None:
    """As grpc itself does: to look for a second message would mean to wait for it."""
    path = Shape.UNARY_UNARY.path()
    answer, _ = call(service.channel, path, Shape.STREAM_UNARY, service.good, [b"one", b"two"])
    assert answer.code is _C.OK
    assert [seen.messages for seen in service.servicer.log.take()] == [(b"one",)]


@pytest.mark.parametrize(
    "shape", [shape for shape in Shape if not shape.streams_request], ids=lambda shape: shape.name.lower()
)
def test_a96_a_unary_method_without_a_message_is_told_so(service: Service, shape: Shape) -> None:
    streaming = Shape((True, shape.streams_answer))
    answer, outcome = call(service.channel, shape.path(), streaming, service.good, [])
    assert answer == Answer(_C.UNIMPLEMENTED, None, 0)
    assert outcome.details() == "the method takes exactly one request message"
    answer, _ = call(service.channel, shape.path(), streaming, (), [])
    assert answer == Answer(_C.UNAUTHENTICATED, Reason.CREDENTIALS_MISSING, 0)
    assert service.servicer.log.take() == []


@pytest.mark.parametrize("demand", ["Guarded", "Public"])
@pytest.mark.parametrize("stack", Stack)
def test_a_method_that_has_a_policy_and_no_handler_is_told_to_who_may_call_it(
    stack: Stack, demand: str
) -> None:
    authority, shape = FakeAuthority(), Shape.UNARY_UNARY
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({}), [auth]) as port,
        connect(port) as channel,
    ):
        answer, _ = call(channel, shape.path(demand), shape, (("authorization", token.field_value()),))
        assert answer == Answer(_C.UNIMPLEMENTED, Reason.METHOD_UNKNOWN, 0)
        if demand == "Guarded":
            answer, _ = call(channel, shape.path(demand), shape)
            assert answer == Answer(_C.UNAUTHENTICATED, Reason.CREDENTIALS_MISSING, 0)


@pytest.mark.parametrize("shape", Shape)
def test_a96_a_method_called_by_another_shape_decides_the_same(service: Service, shape: Shape) -> None:
    for other in Shape:
        assert call(service.channel, shape.path(), other)[0].reason is Reason.CREDENTIALS_MISSING
    assert service.servicer.log.take() == []
    assert call(service.channel, shape.path(), shape, service.good)[0].code is _C.OK


@pytest.mark.parametrize(("stack", "kind", "shape"), _COMBINATIONS)
def test_a_message_that_cannot_be_read_is_internal_and_its_fault_stays_here(
    stack: Stack, kind: str, shape: Shape
) -> None:
    def parse(raw: bytes) -> bytes:
        raise ValueError(_SECRET, raw)

    authority, servicer = FakeAuthority(), Servicer()
    behaviour = KINDS[stack][kind](servicer, shape)
    handlers = Generic({shape.path(): shape.handler(behaviour, request_deserializer=parse)})
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    with (
        interceptor(authority) as auth,
        serve(stack, handlers, [auth]) as port,
        connect(port) as channel,
    ):
        metadata = (("authorization", token.field_value()),)
        answer, outcome = call(channel, shape.path(), shape, metadata)
        refusal, _ = call(channel, shape.path(), shape)
    assert answer == Answer(_C.INTERNAL, None, 0)
    assert outcome.details() == "a request message could not be read"
    assert servicer.log.take() == []
    assert refusal == Answer(_C.UNAUTHENTICATED, Reason.CREDENTIALS_MISSING, 0)


@pytest.mark.parametrize(("stack", "shape"), _SHAPES)
def test_a_serialiser_pair_is_used_as_the_handler_names_it(stack: Stack, shape: Shape) -> None:
    authority, servicer = FakeAuthority(), Servicer()
    behaviour = KINDS[stack][_FIRST_KIND[stack]](servicer, shape)
    handler = shape.handler(behaviour, request_deserializer=bytes.upper, response_serializer=bytes.upper)
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({shape.path("Public"): handler}), [auth]) as port,
        connect(port) as channel,
    ):
        answer = channel.stream_stream(shape.path("Public"))(iter([b"message"]))
        assert set(answer) == {b"ANSWER"}
    assert [seen.messages for seen in servicer.log.take()] == [(b"MESSAGE",)]


@pytest.mark.parametrize(("stack", "shape"), _SHAPES)
def test_a97_registered_methods_cannot_be_reached_past_the_interceptor(stack: Stack, shape: Shape) -> None:
    authority, servicer = FakeAuthority(), Servicer()
    behaviour = KINDS[stack][_FIRST_KIND[stack]](servicer, shape)

    def register(server: Any) -> None:
        methods = {demand + shape.name: shape.handler(behaviour) for demand in ("Guarded", "Unlisted")}
        server.add_registered_method_handlers(SERVICE, methods)

    with serve(stack, Generic({}), [], prepare=register) as port, connect(port) as channel:
        # Older versions of grpc.aio accept registered methods, and do nothing with them.
        known = call(channel, shape.path("Unlisted"), shape)[0].code is not _C.UNIMPLEMENTED
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    metadata = (("authorization", token.field_value()),)
    with (
        interceptor(authority) as auth,
        serve(stack, Generic({}), [auth], prepare=register) as port,
        connect(port) as channel,
    ):
        answers = [
            call(channel, shape.path(demand), shape, sent)[0].reason
            for demand in ("Guarded", "Unlisted")
            for sent in ((), metadata)
        ]
    assert answers == [
        Reason.CREDENTIALS_MISSING,
        None if known else Reason.METHOD_UNKNOWN,
        Reason.CREDENTIALS_MISSING,
        Reason.METHOD_UNKNOWN,
    ]
    assert len(servicer.log.take()) == known


class _Fresh(grpc.GenericRpcHandler):
    """Makes a new handler for each call."""

    def __init__(self, make: Callable[[str], Handler | None]) -> None:
        self._make = make

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._make(handler_call_details.method)


@pytest.mark.parametrize(("stack", "shape"), _SHAPES)
def test_handlers_made_for_each_call_are_guarded_each(stack: Stack, shape: Shape) -> None:
    authority, servicers = FakeAuthority(), [Servicer() for _ in range(3)]
    waiting = iter(servicers)

    def make(_path: str) -> Handler:
        return shape.handler(KINDS[stack][_FIRST_KIND[stack]](next(waiting), shape))

    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    metadata = (("authorization", token.field_value()),)
    with (
        interceptor(authority) as auth,
        serve(stack, _Fresh(make), [auth]) as port,
        connect(port) as channel,
    ):
        for _ in range(2):
            assert call(channel, shape.path(), shape, metadata)[0].code is _C.OK
        assert call(channel, shape.path(), shape)[0].reason is Reason.CREDENTIALS_MISSING
    assert [len(servicer.log.take()) for servicer in servicers] == [1, 1, 0]


@pytest.mark.parametrize("stack", Stack)
def test_names_that_callers_make_up_are_not_remembered(stack: Stack) -> None:
    authority, servicer = FakeAuthority(), Servicer()
    shape = Shape.UNARY_UNARY
    handler = shape.handler(KINDS[stack][_FIRST_KIND[stack]](servicer, shape))
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    metadata = (("authorization", token.field_value()),)
    with (
        interceptor(authority) as auth,
        serve(stack, _Fresh(lambda path: handler if "Made" in path else None), [auth]) as port,
        connect(port) as channel,
    ):
        for number in range(200):
            path = f"/{SERVICE}/{'Made' if number % 2 else 'No'}{number}"
            answer, _ = call(channel, path, shape, metadata)
            assert answer.reason is Reason.METHOD_UNKNOWN
        assert auth._guarded == {}
    assert servicer.log.take() == []


def test_one_interceptor_keeps_the_stacks_apart_even_for_one_handler() -> None:
    """A handler object that both servers share must be wrapped for each."""
    authority, servicer = FakeAuthority(), Servicer()
    shape = Shape.UNARY_UNARY
    handlers = Generic({shape.path(): shape.handler(servicer.method)})
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    metadata = (("authorization", token.field_value()),)
    with (
        interceptor(authority) as auth,
        serve(Stack.SYNC, handlers, [auth]) as sync_port,
        serve(Stack.ASYNCIO, handlers, [auth]) as asyncio_port,
        connect(sync_port) as sync_channel,
        connect(asyncio_port) as asyncio_channel,
    ):
        for channel in (sync_channel, asyncio_channel) * 2:
            assert call(channel, shape.path(), shape, metadata)[0].code is _C.OK
            assert call(channel, shape.path(), shape)[0].code is _C.UNAUTHENTICATED
    assert len(servicer.log.take()) == 4


def test_two_interceptors_in_one_process_decide_each_for_itself() -> None:
    authorities = [FakeAuthority(), FakeAuthority()]
    tokens = [a.access_token(resource=RESOURCE, scopes=[SCOPE]) for a in authorities]
    shape, servicer = Shape.UNARY_UNARY, Servicer()
    handlers = Generic({shape.path(): shape.handler(servicer.method)})
    with (
        interceptor(authorities[0]) as first,
        interceptor(authorities[1]) as second,
        serve(Stack.SYNC, handlers, [first]) as first_port,
        serve(Stack.ASYNCIO, handlers, [second]) as second_port,
        connect(first_port) as first_channel,
        connect(second_port) as second_channel,
    ):
        answers = [
            [call(channel, shape.path(), shape, (("x-rpz-auth", t.field_value()),))[0].code for t in tokens]
            for channel in (first_channel, second_channel)
        ]
    assert answers == [[_C.OK, _C.UNAUTHENTICATED], [_C.UNAUTHENTICATED, _C.OK]]


class _Recorder(FakeAuthority):
    """Notes how it is started and closed."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.acts: list[str] = []
        self._error = error

    def start(self) -> None:
        self.acts.append("start")
        super().start()

    def wait(self, timeout: float) -> None:
        self.acts.append(f"wait {timeout}")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.acts.append("close")


async def test_the_interceptor_starts_waits_and_closes_on_either_stack() -> None:
    authority = _Recorder()
    with interceptor(authority):
        assert authority.acts == ["start", "wait 30.0"]
    async with interceptor(authority):
        assert authority.acts[2:] == ["close", "start", "wait 30.0"]
    assert authority.acts[5:] == ["close"]


async def test_an_authority_that_does_not_come_up_is_closed_again() -> None:
    for error in (rpz_auth.BackendUnavailable(), rpz_auth.ConfigurationError("another file")):
        authority = _Recorder(error)
        with pytest.raises(type(error)), interceptor(authority, when_stale=rpz_auth.REFUSE):
            pass
        with pytest.raises(type(error)):
            async with interceptor(authority, when_stale=rpz_auth.REFUSE):
                pass
        assert authority.acts == ["start", "wait 30.0", "close"] * 2


def test_the_policy_client_is_refused_unless_allowed() -> None:
    table = {f"/{SERVICE}/Token": rpz_auth.policy.CLIENT}
    with pytest.raises(rpz_auth.ConfigurationError, match="demand scopes"):
        rpz_auth.AuthInterceptor(FakeAuthority(), resource=RESOURCE, policies=table)
    auth = rpz_auth.AuthInterceptor(
        FakeAuthority(), resource=RESOURCE, policies=table, allow_client_policy=True
    )
    assert dict(auth.policies) == table


def test_start_up_prints_the_policies(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rpz_auth")
    auth = interceptor(FakeAuthority())
    assert not caplog.text
    with auth:
        pass
    for path, policy in policies().items():
        assert any(line.split() == [path, str(policy)] for line in caplog.text.splitlines())


@pytest.mark.parametrize("stack", Stack)
def test_a_call_through_a_trusted_proxy_shows_the_address_behind_it(stack: Stack) -> None:
    authority, servicer = FakeAuthority(), Servicer()
    shape = Shape.UNARY_UNARY
    handlers = Generic(handlers_of_kind(servicer, stack, _FIRST_KIND[stack]))
    token = authority.access_token(resource=RESOURCE, scopes=[SCOPE])
    with (
        interceptor(authority, trusted_proxies=["127.0.0.0/8"]) as auth,
        serve(stack, handlers, [auth]) as port,
        connect(port) as channel,
    ):
        forwarded = ("x-forwarded-for", "198.51.100.1, 203.0.113.9")
        metadata = (("authorization", token.field_value()), forwarded)
        assert call(channel, shape.path(), shape, metadata)[0].code is _C.OK
    assert [seen.peer for seen in servicer.log.take()] == ["203.0.113.9"]


async def test_a98_a_cancelled_decision_stays_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Cancellation is no fault: it must reach grpc, not become INTERNAL."""
    entered, released = asyncio.Event(), asyncio.Event()
    outcomes: list[str] = []

    class Slow(FakeAuthority):
        async def ask_async(self, question: Any) -> Any:  # noqa: ARG002 - the protocol's
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                outcomes.append("cancelled")
                raise
            finally:
                released.set()

    authority, servicer, shape = Slow(), Servicer(), Shape.UNARY_UNARY
    token = authority.api_token(resource=RESOURCE, scopes=[SCOPE])
    async with interceptor(authority) as auth:
        server = grpc.aio.server(interceptors=[auth])
        server.add_generic_rpc_handlers((Generic(handlers_of_kind(servicer, Stack.ASYNCIO, "coroutines")),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method: Any = channel.unary_unary(shape.path())
            pending = method(b"", metadata=(("x-rpz-auth", token.field_value()),))
            await entered.wait()
            pending.cancel()
            await released.wait()
        await server.stop(None)
    assert outcomes == ["cancelled"]
    assert caplog.messages == []  # a fault would have been logged
    assert servicer.log.take() == []


def test_a_service_starts_without_its_authority_unless_it_only_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority = _Recorder(rpz_auth.BackendUnavailable("nobody is there"))
    authority.cut_off()
    with interceptor(authority, start_timeout=0.1) as auth:
        assert authority.acts == ["start", "wait 0.1"]
        assert "starts without its authority: nobody is there" in caplog.text
        assert auth.status().state is rpz_auth.State.STALE
    assert authority.acts[2:] == ["close"]


def test_status_tells_state_and_age_and_every_change_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rpz_auth")
    now = 1_800_000_000.0
    authority = FakeAuthority(clock=lambda: now)
    auth = interceptor(authority)
    assert auth.status() == rpz_auth.AuthStatus(
        state=rpz_auth.State.STARTING, age=math.inf, streams=0, observed={}
    )
    authority.start()
    auth._lifecycle._watchman.look()
    assert auth.status().state is rpz_auth.State.FRESH
    authority.cut_off()
    now += 7
    assert (auth.status().state, auth.status().age) == (rpz_auth.State.STALE, 7.0)
    for _ in range(3):
        auth._lifecycle._watchman.look()
    authority.restore()
    auth._lifecycle._watchman.look()
    assert [record.getMessage() for record in caplog.records] == [
        "rpz-auth: https://matrix is up to date with its authority (was starting)",
        "rpz-auth: https://matrix has heard nothing of its authority for 7.0 s (stale)",
        "rpz-auth: https://matrix is up to date with its authority (was stale)",
    ]


@pytest.mark.parametrize("stack", Stack)
@pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.name.lower())
def test_observe_mode_counts_and_logs_and_lets_pass(
    stack: Stack, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    authority, servicer = FakeAuthority(), Servicer()
    kind = "functions" if stack is Stack.SYNC else "coroutines"
    good = authority.access_token(resource=RESOURCE, scopes=[SCOPE]).field_value()
    short = authority.access_token(resource=RESOURCE, scopes=["other"]).field_value()
    with (
        interceptor(authority, observe=True) as auth,
        serve(stack, Generic(handlers_of_kind(servicer, stack, kind)), [auth]) as port,
        connect(port) as channel,
    ):
        for value in (None, "Bearer x", short, good):
            metadata: Metadata = () if value is None else (("authorization", value),)
            assert call(channel, shape.path(), shape, metadata)[0].code is _C.OK
        assert auth.status().observed == {
            rpz_auth.Reason.CREDENTIALS_MISSING: 1,
            rpz_auth.Reason.TOKEN_INVALID: 1,
            rpz_auth.Reason.SCOPE_INSUFFICIENT: 1,
        }
    assert [seen.subject for seen in servicer.log.take()] == [None, None, None, "user:1"]
    assert f"{shape.path()} would be refused: TOKEN_INVALID" in caplog.text
    assert "is NOT protected" in caplog.text
