"""The one table from refusal to wire status, for gRPC and HTTP alike.

Sources: AIP-193 (rich errors), RFC 6749 §5.2 and RFC 6750 §3.1 (OAuth 2 error codes).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from rpz_auth.errors import Reason, Refusal

DOMAIN = "auth.rpz"
Metadata = Iterable[tuple[str, Any]]
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class WireStatus:
    """How one reason looks outside: gRPC code, HTTP status, OAuth 2 `error`."""

    grpc: grpc.StatusCode
    http: int
    oauth_error: str | None = None


_C = grpc.StatusCode
TABLE: Mapping[Reason, WireStatus] = MappingProxyType(
    {
        Reason.CREDENTIALS_MISSING: WireStatus(_C.UNAUTHENTICATED, 401),
        Reason.CREDENTIALS_AMBIGUOUS: WireStatus(_C.INVALID_ARGUMENT, 400, "invalid_request"),
        Reason.TOKEN_INVALID: WireStatus(_C.UNAUTHENTICATED, 401, "invalid_token"),
        Reason.TOKEN_EXPIRED: WireStatus(_C.UNAUTHENTICATED, 401, "invalid_token"),
        Reason.SCOPE_INSUFFICIENT: WireStatus(_C.PERMISSION_DENIED, 403, "insufficient_scope"),
        Reason.ORIGIN_NOT_ALLOWED: WireStatus(_C.PERMISSION_DENIED, 403),
        Reason.METHOD_UNKNOWN: WireStatus(_C.UNIMPLEMENTED, 404),
        Reason.BACKEND_UNAVAILABLE: WireStatus(_C.UNAVAILABLE, 503, "temporarily_unavailable"),
        Reason.INTERNAL: WireStatus(_C.INTERNAL, 500, "server_error"),
        Reason.CLIENT_INVALID: WireStatus(_C.UNAUTHENTICATED, 401, "invalid_client"),
        # Not UNAUTHENTICATED: clients that renew on it would loop.
        Reason.GRANT_INVALID: WireStatus(_C.FAILED_PRECONDITION, 400, "invalid_grant"),
        Reason.GRANT_TYPE_UNKNOWN: WireStatus(_C.INVALID_ARGUMENT, 400, "unsupported_grant_type"),
        Reason.GRANT_TYPE_NOT_ALLOWED: WireStatus(_C.PERMISSION_DENIED, 400, "unauthorized_client"),
        Reason.SCOPE_INVALID: WireStatus(_C.INVALID_ARGUMENT, 400, "invalid_scope"),
        Reason.TARGET_INVALID: WireStatus(_C.INVALID_ARGUMENT, 400, "invalid_target"),
        Reason.REQUEST_INVALID: WireStatus(_C.INVALID_ARGUMENT, 400, "invalid_request"),
        Reason.RIGHTS_INSUFFICIENT: WireStatus(_C.PERMISSION_DENIED, 403, "access_denied"),
        Reason.NOT_FOUND: WireStatus(_C.NOT_FOUND, 404),
        Reason.NOT_IMPLEMENTED: WireStatus(_C.UNIMPLEMENTED, 501),
        Reason.RATE_LIMITED: WireStatus(_C.RESOURCE_EXHAUSTED, 429, "temporarily_unavailable"),
        Reason.CONFLICT: WireStatus(_C.ABORTED, 409),
        # As if nobody could be asked: libraries that do not know it must not take it for a bad token.
        Reason.TOKEN_UNDECIDED: WireStatus(_C.UNAVAILABLE, 503, "temporarily_unavailable"),
    }
)


@dataclass(frozen=True, slots=True)
class RpcStatus(grpc.Status):
    """What `abort_with_status` takes."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def rpc_status(refusal: Refusal) -> RpcStatus:
    """Render a refusal for gRPC: code, text, one ErrorInfo, and RetryInfo where there is a delay."""
    if refusal.metadata or refusal.retry_after is not None:
        return _render(refusal.reason, refusal.message, refusal.metadata, refusal.retry_after)
    return _plain(refusal.reason, refusal.message)


@functools.lru_cache(maxsize=256)
def _plain(reason: Reason, message: str) -> RpcStatus:
    """What nearly all refusals are; there are few, for no message has anything in it that a client sent."""
    return _render(reason, message, {}, None)


def _render(
    reason: Reason, message: str, metadata: Mapping[str, str], retry_after: float | None
) -> RpcStatus:
    wire = TABLE[reason]
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    rich = status_pb2.Status(code=wire.grpc.value[0], message=message, details=[_pack(info)])
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after * 1e9))
        rich.details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return RpcStatus(wire.grpc, message, ((_DETAILS_KEY, rich.SerializeToString()),))


def reason_of(error: grpc.RpcError) -> Reason | None:
    """The reason in an error that a client received, or None when it carries none of ours.

    Never raises: whatever stood between client and service may have written the details.
    """
    return reason_in(_trailing_metadata(error))


def reason_in(trailing_metadata: Metadata) -> Reason | None:
    """The reason in the trailing metadata of a call; as `reason_of`."""
    for detail in _details(trailing_metadata):
        info = error_details_pb2.ErrorInfo()
        if _unpack(detail, info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            return Reason(info.reason)
    return None


def retry_delay_of(error: grpc.RpcError) -> float | None:
    """For how many seconds an error asks to wait (`google.rpc.RetryInfo`), or None when it says nothing."""
    for detail in _details(_trailing_metadata(error)):
        retry = error_details_pb2.RetryInfo()
        if _unpack(detail, retry) and retry.HasField("retry_delay"):
            return max(0.0, float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9))
    return None


def _trailing_metadata(error: grpc.RpcError) -> Metadata:
    # grpc raises RpcErrors that can be asked this, but the class itself cannot; types-grpcio says otherwise.
    read: Callable[[], Metadata | None] = getattr(error, "trailing_metadata", tuple)
    return read() or ()


def _details(trailing_metadata: Metadata) -> Iterator[any_pb2.Any]:
    for key, value in trailing_metadata:
        if key == _DETAILS_KEY:
            with contextlib.suppress(DecodeError):
                yield from status_pb2.Status.FromString(value).details


def _unpack(detail: any_pb2.Any, message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> bool:
    try:
        return bool(detail.Unpack(message))
    except DecodeError:
        return False


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
