from __future__ import annotations

import base64
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from rpz_auth import Peer
from rpz_auth.caller import Verdict
from rpz_auth.client import AccessToken
from rpz_auth.service import held_back
from rpz_auth.testing import FakeAuthority
from rpz_auth.view import View
from support.grpc_servers import (
    KINDS,
    RESOURCE,
    SCOPE,
    SERVICE,
    TIMEOUT,
    Generic,
    Servicer,
    Shape,
    Stack,
    call,
    connect,
    handlers_of_kind,
    interceptor,
    serve,
)
from support.http2 import RawClient, RawHeaders, raw_client

THREADS = 4
STREAMS = 4 * THREADS
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED.value[0]
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED.value[0]
INTERNAL = grpc.StatusCode.INTERNAL.value[0]
CANCELLED = grpc.StatusCode.CANCELLED.value[0]
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class Service:
    """A running service; a sync one has `THREADS` threads."""

    def __init__(self, stack: Stack, port: int, authority: FakeAuthority, servicer: Servicer) -> None:
        self.stack = stack
        self.port = port
        self.authority = authority
        self.servicer = servicer
        self.good = authority.access_token(resource=RESOURCE, scopes=[SCOPE]).field_value()
        self.scopeless = authority.access_token(resource=RESOURCE, scopes=["other"]).field_value()
        self.expired = authority.access_token(resource=RESOURCE, scopes=[SCOPE], expires_in=-1).field_value()

    def still_answers(self, timeout: float = TIMEOUT) -> bytes:
        with connect(self.port) as channel:
            answer: bytes = channel.unary_unary(Shape.UNARY_UNARY.path())(
                b"", metadata=(("authorization", self.good),), timeout=timeout
            )
            return answer


@contextlib.contextmanager
def _service(stack: Stack) -> Iterator[Service]:
    authority, servicer = FakeAuthority(), Servicer()
    kind = next(iter(KINDS[stack]))
    handlers = Generic(handlers_of_kind(servicer, stack, kind))
    with interceptor(authority) as auth, serve(stack, handlers, [auth]) as port:
        yield Service(stack, port, authority, servicer)


@pytest.fixture(params=Stack, ids=lambda stack: stack.value)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with _service(request.param) as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[RawClient]:
    with raw_client(service.port) as raw:
        yield raw


def _authorization(value: str) -> RawHeaders:
    return ((b"authorization", value.encode()),)


@pytest.mark.parametrize("shape", Shape, ids=lambda shape: shape.name.lower())
def test_r129_a100_header_only_streams_that_are_refused_are_answered_and_hold_no_thread(
    service: Service, client: RawClient, shape: Shape
) -> None:
    refused: list[tuple[str, RawHeaders, int]] = [
        (shape.path(), (), UNAUTHENTICATED),
        (shape.path(), _authorization("Bearer x"), UNAUTHENTICATED),
        (shape.path(), _authorization(service.expired), UNAUTHENTICATED),
        (shape.path(), _authorization(service.good) * 2, INVALID_ARGUMENT),
        (shape.path(), _authorization(service.scopeless), PERMISSION_DENIED),
        (shape.path("Unlisted"), (), UNAUTHENTICATED),
        (shape.path("Unlisted"), _authorization(service.good), UNIMPLEMENTED),
        (shape.path("MadeUp"), (), UNAUTHENTICATED),
        (shape.path("MadeUp"), _authorization(service.good), UNIMPLEMENTED),
    ]
    for path, headers, status in refused:
        streams = [client.open(path, headers) for _ in range(STREAMS)]
        assert service.still_answers()
        assert [client.status(stream) for stream in streams] == [status] * STREAMS
    assert len(service.servicer.log.take()) == len(refused)


def test_header_only_streams_of_a_good_credential_hold_threads_until_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What grpc's sync server cannot help: whoever is let in may keep a thread waiting."""
    admitted = threading.Semaphore(0)

    def check(verdict: Verdict, peer: Peer | None) -> None:
        View.check(view, verdict, peer)
        admitted.release()

    with _service(Stack.SYNC) as service:
        view = service.authority.view
        monkeypatch.setattr(view, "check", check)
        with raw_client(service.port) as client:
            for _ in range(STREAMS):
                client.open(Shape.UNARY_UNARY.path(), _authorization(service.good))
            assert all(admitted.acquire(timeout=TIMEOUT) for _ in range(THREADS))
            with pytest.raises(grpc.RpcError) as refused:
                service.still_answers(timeout=1)
            assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert service.still_answers()


def test_header_only_streams_of_a_good_credential_hold_nothing_on_asyncio() -> None:
    with _service(Stack.ASYNCIO) as service, raw_client(service.port) as client:
        for shape in Shape:
            for _ in range(STREAMS):
                client.open(shape.path(), _authorization(service.good))
            assert service.still_answers()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda authority, token: authority.revoke(token), UNAUTHENTICATED),
        (lambda authority, _: authority.lock(), UNAUTHENTICATED),
        (lambda authority, _: authority.whitelist(["192.0.2.1"]), PERMISSION_DENIED),
    ],
    ids=["revoked", "locked", "not on the whitelist"],
)
def test_r077_call_whose_message_was_held_back_until_its_credential_ended_is_refused(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[FakeAuthority, AccessToken], None],
    status: int,
) -> None:
    """Whoever expects a revocation could open calls, and have them served when it has come."""
    monkeypatch.setattr(held_back, "AT_ONCE", 0.0)
    view, admitted = service.authority.view, threading.Event()
    token = service.authority.access_token(resource=RESOURCE, scopes=[SCOPE])

    def check(verdict: Verdict, peer: Peer | None) -> None:
        View.check(view, verdict, peer)
        admitted.set()

    monkeypatch.setattr(view, "check", check)
    with raw_client(service.port) as client:
        stream = client.open(Shape.UNARY_UNARY.path(), _authorization(token.field_value()))
        assert admitted.wait(TIMEOUT)
        end(service.authority, token)
        client.send_empty_message(stream)
        assert client.status(stream) == status
    assert service.servicer.log.take() == []


@pytest.mark.parametrize(
    "byte",
    [b"\r", b"\n", b"\x00", b"\t", b"\x0b", b"\x1b", b"\x1c", b"\xa0", b"\x85", b"\xff", b"\xc2\xa0"],
    ids=repr,
)
def test_a55_a56_hostile_bytes_are_refused_and_no_log_line_is_broken(
    service: Service, client: RawClient, byte: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good = service.good.encode()
    for value in (
        good.replace(b" ", byte),
        good.replace(b" ", b" " + byte),
        good.replace(b" ", byte + b" "),
        good[:20] + byte + good[20:],
        byte + good,
        good + byte,
        good + byte + b"x-rpz-auth: " + good,
    ):
        for key in (b"authorization", b"x-rpz-auth"):
            stream = client.open(Shape.UNARY_UNARY.path(), ((key, value),))
            client.send_empty_message(stream)
            # None: the core reset the stream itself, before any Python saw it.
            assert client.status(stream) in (UNAUTHENTICATED, None)
    assert service.servicer.log.take() == []
    # What asyncio says of grpc's poller has several lines, and nothing that a client sent.
    ours = [record for record in caplog.records if record.name.startswith(("rpz_auth", "grpc"))]
    assert all("\n" not in record.getMessage() for record in ours)
    # grpc itself logs what it cannot decode; what we write never holds a credential.
    assert all(service.good not in record.getMessage() for record in ours if record.name == "rpz_auth")
    assert service.still_answers()


def test_a55_spaces_around_the_credential_do_not_matter(service: Service, client: RawClient) -> None:
    for value in (" " + service.good, service.good + " ", service.good.replace(" ", " " * 9)):
        stream = client.open(Shape.UNARY_UNARY.path(), _authorization(value))
        client.send_empty_message(stream)
        assert client.status(stream) == 0


@pytest.mark.parametrize("letters", ["\u017f", "\u212a", "\uff22"])
def test_a57_letters_that_only_look_alike_are_refused(
    service: Service, client: RawClient, letters: str
) -> None:
    for scheme in (f"{letters}earer", f"Ba{letters}ic", f"Bearer{letters}"):
        value = service.good.replace("Bearer", scheme)
        stream = client.open(Shape.UNARY_UNARY.path(), _authorization(value))
        assert client.status(stream) in (UNAUTHENTICATED, None)


def test_a53_binary_keys_are_ignored_and_bad_base64_in_one_is_refused(service: Service) -> None:
    path, good = Shape.UNARY_UNARY.path(), service.good.encode()
    for key in (b"authorization-bin", b"x-rpz-auth-bin"):
        for value, alone, beside_a_good_one in (
            (base64.b64encode(good).rstrip(b"="), UNAUTHENTICATED, 0),
            (b"*not base64*", None, None),
        ):
            for credential, expected in (((), alone), (_authorization(service.good), beside_a_good_one)):
                # A connection each: the core remembers a header that it could not read.
                with raw_client(service.port) as client:
                    stream = client.open(path, (*credential, (key, value)))
                    client.send_empty_message(stream)
                    status = client.status(stream)
                    # The core refuses what it cannot read: by INTERNAL, or by a reset in older versions.
                    assert status == expected or (expected is None and status == INTERNAL)
    assert len(service.servicer.log.take()) == 2


def test_a58_keys_in_upper_case_are_never_a_credential(service: Service) -> None:
    for key in (b"X-Rpz-Auth", b"Authorization", b"AUTHORIZATION"):
        with raw_client(service.port) as client:
            stream = client.open(Shape.UNARY_UNARY.path(), ((key, service.good.encode()),))
            with contextlib.suppress(ConnectionError):  # the core may end the whole connection
                assert client.status(stream) != 0
    assert service.servicer.log.take() == []
    assert service.still_answers()


@pytest.mark.parametrize("stack", Stack, ids=lambda stack: stack.value)
def test_a59_of_two_paths_the_one_that_is_served_is_the_one_that_is_decided(stack: Stack) -> None:
    shape, kind = Shape.UNARY_UNARY, next(iter(KINDS[stack]))
    servicers = {demand: Servicer() for demand in ("Guarded", "Public", "Unlisted")}
    handlers = Generic(
        {shape.path(name): shape.handler(KINDS[stack][kind](s, shape)) for name, s in servicers.items()}
    )
    with interceptor(FakeAuthority()) as auth, serve(stack, handlers, [auth]) as port:
        for first, second in itertools.permutations(servicers, 2):
            another = ((b":path", shape.path(second).encode()),)
            for extra, before in ((another, ()), ((), another)):
                with raw_client(port) as client, contextlib.suppress(ConnectionError):
                    stream = client.open(shape.path(first), extra, before=before)
                    client.send_empty_message(stream)
                    client.status(stream)
        with connect(port) as channel:
            assert call(channel, shape.path("Public"), shape)[0].code is grpc.StatusCode.OK
    assert servicers["Guarded"].log.take() == servicers["Unlisted"].log.take() == []
    assert servicers["Public"].log.take()


@pytest.mark.parametrize(
    "path",
    [
        "//{service}/{method}",
        "/{service}/{method}/",
        "/{service}/{method}?token=x",
        "/{service}%2F{method}",
        "/{service}/./{method}",
        "/x/../{service}/{method}",
        "/{service}/{method}%00",
        "/{upper}/{method}",
        "{service}/{method}",
        "/{service}",
        "/",
        "",
        "*",
    ],
)
def test_a60_a_path_that_is_not_exact_is_no_method(service: Service, path: str) -> None:
    for method in (Shape.UNARY_UNARY.path(), Shape.UNARY_UNARY.path("Public")):
        name = method.rpartition("/")[2]
        spelt = path.format(service=SERVICE, upper=SERVICE.upper(), method=name)
        unheard = CANCELLED if spelt == "" else None  # of no path the sync server does not look for a handler
        for headers, status in (((), UNAUTHENTICATED), (_authorization(service.good), UNIMPLEMENTED)):
            with raw_client(service.port) as client:
                stream = client.open(spelt, headers)
                with contextlib.suppress(ConnectionError):
                    assert client.status(stream) in {status, None, unheard}
    assert service.servicer.log.take() == []
    assert service.still_answers()


@pytest.mark.parametrize("size", [7_000, 8_000, 9_000, 12_000, 17_000, 40_000])
def test_a54_large_metadata_never_helps_a_bad_credential(service: Service, size: int) -> None:
    shape = Shape.UNARY_UNARY
    with connect(service.port) as channel:
        bad, _ = call(channel, shape.path(), shape, (("authorization", "Bearer " + "a" * size),))
        padded, _ = call(
            channel, shape.path(), shape, (("authorization", service.good), ("x-padding", "a" * size))
        )
    refused = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert bad.code in (refused if size < 17_000 else {grpc.StatusCode.RESOURCE_EXHAUSTED})
    assert padded.code in {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (padded.code is grpc.StatusCode.OK) or size > 7_000
    assert [seen.subject for seen in service.servicer.log.take()] == ["user:1"] * (
        padded.code is grpc.StatusCode.OK
    )
    assert service.still_answers()
