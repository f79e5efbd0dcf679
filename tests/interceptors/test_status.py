"""The status table, and its way over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from rpz_auth.errors import BackendUnavailable, Reason, Refusal
from rpz_auth.status import DOMAIN, TABLE, WireStatus, reason_of, rpc_status

C = grpc.StatusCode
DETAILS = "grpc-status-details-bin"
METHOD = "/test.Abort/Abort"

REQUIRED = {
    "CREDENTIALS_MISSING": WireStatus(C.UNAUTHENTICATED, 401, None),
    "TOKEN_INVALID": WireStatus(C.UNAUTHENTICATED, 401, "invalid_token"),
    "TOKEN_EXPIRED": WireStatus(C.UNAUTHENTICATED, 401, "invalid_token"),
    "CREDENTIALS_AMBIGUOUS": WireStatus(C.INVALID_ARGUMENT, 400, "invalid_request"),
    "SCOPE_INSUFFICIENT": WireStatus(C.PERMISSION_DENIED, 403, "insufficient_scope"),
    "ORIGIN_NOT_ALLOWED": WireStatus(C.PERMISSION_DENIED, 403, None),
    "CLIENT_INVALID": WireStatus(C.UNAUTHENTICATED, 401, "invalid_client"),
    "GRANT_INVALID": WireStatus(C.FAILED_PRECONDITION, 400, "invalid_grant"),
    "SCOPE_INVALID": WireStatus(C.INVALID_ARGUMENT, 400, "invalid_scope"),
    "RATE_LIMITED": WireStatus(C.RESOURCE_EXHAUSTED, 429, "temporarily_unavailable"),
    "BACKEND_UNAVAILABLE": WireStatus(C.UNAVAILABLE, 503, "temporarily_unavailable"),
    "CONFLICT": WireStatus(C.ABORTED, 409, None),
    "METHOD_UNKNOWN": WireStatus(C.UNIMPLEMENTED, 404, None),
    "INTERNAL": WireStatus(C.INTERNAL, 500, "server_error"),
}
"""Section 1 of the requirements, row by row."""

BESIDES = {
    "TARGET_INVALID": WireStatus(C.INVALID_ARGUMENT, 400, "invalid_target"),  # RFC 8707 §2
    "REQUEST_INVALID": WireStatus(C.INVALID_ARGUMENT, 400, "invalid_request"),
    "GRANT_TYPE_UNKNOWN": WireStatus(C.INVALID_ARGUMENT, 400, "unsupported_grant_type"),  # RFC 6749 §5.2
    "GRANT_TYPE_NOT_ALLOWED": WireStatus(C.PERMISSION_DENIED, 400, "unauthorized_client"),
    "RIGHTS_INSUFFICIENT": WireStatus(C.PERMISSION_DENIED, 403, "access_denied"),
    "NOT_FOUND": WireStatus(C.NOT_FOUND, 404, None),
    "NOT_IMPLEMENTED": WireStatus(C.UNIMPLEMENTED, 501, None),
    "TOKEN_UNDECIDED": WireStatus(C.UNAVAILABLE, 503, "temporarily_unavailable"),
}


def _refusal(reason: Reason) -> Refusal:
    kind = type("_Any", (Refusal,), {"reason": reason, "default_message": "any"})
    refusal: Refusal = kind(f"refused for {reason}")
    return refusal


def _error_info(reason: str, domain: str = DOMAIN) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    return packed


class _Item(NamedTuple):
    key: str
    value: str | bytes


class _Received(grpc.RpcError):
    """An error as a client sees it, with metadata that no server of ours would send."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def trailing_metadata(self) -> tuple[_Item, ...]:  # type: ignore[override] # grpc's items are tuples
        return tuple(_Item(*item) for item in self._metadata)


def test_the_table_is_the_required_one() -> None:
    assert {reason.value: wire for reason, wire in TABLE.items()} == REQUIRED | BESIDES


def test_every_reason_is_in_the_table_and_nothing_else() -> None:
    assert set(TABLE) == set(Reason)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TABLE[Reason.INTERNAL] = TABLE[Reason.NOT_FOUND]  # type: ignore[index] # that it is refused is the point


@pytest.mark.parametrize("reason", Reason)
def test_r120_every_refusal_carries_one_error_info(reason: Reason) -> None:
    status = rpc_status(_refusal(reason))
    ((key, value),) = status.trailing_metadata
    rich = status_pb2.Status.FromString(value)
    info = error_details_pb2.ErrorInfo()
    (detail,) = rich.details
    assert detail.Unpack(info)
    assert (key, info.reason, info.domain) == (DETAILS, reason.value, "auth.rpz")
    assert (status.code, status.details) == (TABLE[reason].grpc, f"refused for {reason}")
    assert (rich.code, rich.message) == (status.code.value[0], status.details)


@pytest.mark.parametrize(("seconds", "nanos"), [(0.0, 0), (1.5, 1_500_000_000), (3600, 3_600_000_000_000)])
def test_a29_a_delay_becomes_retry_info_beside_the_error_info(seconds: float, nanos: int) -> None:
    status = rpc_status(BackendUnavailable(retry_after=seconds))
    rich = status_pb2.Status.FromString(status.trailing_metadata[0][1])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert [detail.type_url.rpartition(".")[2] for detail in rich.details] == ["ErrorInfo", "RetryInfo"]
    assert rich.details[0].Unpack(info)
    assert rich.details[1].Unpack(retry)
    assert retry.retry_delay.ToNanoseconds() == nanos


def test_metadata_of_a_refusal_reaches_its_error_info() -> None:
    refusal = BackendUnavailable(metadata={"required_scopes": "a b"})
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(rpc_status(refusal).trailing_metadata[0][1]).details[0].Unpack(info)
    assert dict(info.metadata) == {"required_scopes": "a b"}


def _abort(request: bytes, context: grpc.ServicerContext) -> bytes:
    if request.startswith(b"raw:"):
        context.set_trailing_metadata(((DETAILS, request.removeprefix(b"raw:")),))
        context.abort(C.UNAUTHENTICATED, "raw")
    context.abort_with_status(rpc_status(_refusal(Reason(request.decode()))))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_abort)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Abort", {"Abort": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _method(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary(METHOD)


def _call(address: str, request: bytes) -> grpc.RpcError:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        _method(channel)(request, timeout=10)
    return raised.value


async def _call_async(address: str, request: bytes) -> grpc.RpcError:
    async with grpc.aio.insecure_channel(address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(request, timeout=10)
    return raised.value


@pytest.mark.parametrize("reason", Reason)
def test_a_sync_client_reads_the_reason_off_the_wire(address: str, reason: Reason) -> None:
    error = _call(address, reason.encode())
    assert (reason_of(error), error.code(), error.details()) == (
        reason,
        TABLE[reason].grpc,
        f"refused for {reason}",
    )


@pytest.mark.parametrize("reason", Reason)
async def test_an_asyncio_client_reads_the_reason_off_the_wire(address: str, reason: Reason) -> None:
    error = await _call_async(address, reason.encode())
    assert (reason_of(error), error.code(), error.details()) == (
        reason,
        TABLE[reason].grpc,
        f"refused for {reason}",
    )


@pytest.mark.parametrize("reason", Reason)
async def test_an_asyncio_server_sends_the_same(reason: Reason) -> None:
    async def abort(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        status = rpc_status(_refusal(reason))
        await context.abort(status.code, status.details, status.trailing_metadata)

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(abort)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Abort", {"Abort": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        error = await _call_async(f"127.0.0.1:{port}", b"")
    finally:
        await server.stop(None)
    assert (reason_of(error), error.code()) == (reason, TABLE[reason].grpc)


GARBAGE = [
    b"",
    b"\xff",
    b"\x0a\xff\xff\xff\xff\x7f",
    status_pb2.Status(code=16).SerializeToString(),
    status_pb2.Status(details=[any_pb2.Any()]).SerializeToString(),
    status_pb2.Status(
        details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")]
    ).SerializeToString(),
    status_pb2.Status(
        details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\x0a\x01\xff")]
    ).SerializeToString(),
    status_pb2.Status(details=[_error_info("TOKEN_INVALID", "elsewhere.example")]).SerializeToString(),
    status_pb2.Status(details=[_error_info("MADE_UP")]).SerializeToString(),
    status_pb2.Status(details=[_error_info("")]).SerializeToString(),
    status_pb2.Status(details=[_error_info("__class__")]).SerializeToString(),
]


@pytest.mark.parametrize("raw", GARBAGE)
async def test_details_that_are_not_ours_give_no_reason(address: str, raw: bytes) -> None:
    assert reason_of(_call(address, b"raw:" + raw)) is None
    assert reason_of(await _call_async(address, b"raw:" + raw)) is None


@given(st.lists(st.tuples(st.sampled_from([DETAILS, "x-other", "x-other-bin"]), st.binary()), max_size=4))
def test_no_details_whatever_make_reading_the_reason_fail(metadata: list[tuple[str, bytes]]) -> None:
    assert reason_of(_Received(*metadata)) in (None, *Reason)


def test_a_reason_is_found_behind_details_that_cannot_be_read() -> None:
    good = status_pb2.Status(
        details=[_error_info("MADE_UP"), _error_info("TOKEN_EXPIRED")]
    ).SerializeToString()
    assert (
        reason_of(_Received((DETAILS, b"\xff"), ("x-other", "text"), (DETAILS, good))) is Reason.TOKEN_EXPIRED
    )


async def test_calls_that_failed_without_a_server_have_no_reason() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as raised:
        _method(channel)(b"", timeout=10)
    assert reason_of(raised.value) is None
    assert reason_of(grpc.RpcError()) is None
    assert reason_of(grpc.aio.AioRpcError(C.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata())) is None
