"""The authority as OAuth 2 clients see it: codes, refresh tokens and API tokens for access tokens."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from rpz.auth.v1 import token_service_pb2 as pb
from rpz.auth.v1 import token_service_pb2_grpc as pb_grpc

from rpz_auth.client.credential import ApiToken
from rpz_auth.errors import Reason, RenewalFailed, SignInRequired
from rpz_auth.status import reason_of, retry_delay_of

_API_TOKEN_TYPE = "urn:rpz:token-type:api_token"  # noqa: S105 - the name of a kind
_ATTEMPTS = 5
"""Of one renewal: the authority repeats a rotation five times."""
_FIRST_DELAY, _LONGEST_DELAY = 0.02, 2.0
"""Seconds between attempts. With their timeouts, all stay within the authority's grace of a minute."""
# Nothing is known of what became of the request: the answer may have been lost, or never have been made.
_UNKNOWN_OUTCOME = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    }
)
_CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    # A code must not be sent twice, not even by grpc itself; what may be repeated is repeated below.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class TokenEndpoint:
    """The `TokenService` of an authority; one for all credentials that renew there."""

    def __init__(
        self,
        target: str,
        *,
        tls: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        timeout: float = 5.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare to connect; nothing is sent yet.

        Args:
            target: The authority's gRPC address, `host:port`.
            tls: How to trust it; the system's authorities when None.
            options: Of the channel.
            timeout: Of one attempt, in seconds.
            sleep: How to wait between attempts.
        """
        self._target = target
        self._tls = tls
        self._options = (*_CHANNEL_OPTIONS, *options)
        self._timeout = timeout
        self._sleep = sleep
        self._opening = threading.Lock()
        self._channel: grpc.Channel | None = None

    def close(self) -> None:
        """Let go of the connection; the next request opens another."""
        with self._opening:
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def exchange_token(self, request: pb.ExchangeTokenRequest) -> pb.ExchangeTokenResponse:
        """Redeem a code (RFC 6749 §4.1.3): sent once and never again, whatever becomes of it.

        Raises:
            SignInRequired: The code is good for nothing, or the answer was lost.
            RenewalFailed: The authority refuses the request itself.
        """
        try:
            return self._stub().ExchangeToken(request, timeout=self._timeout)
        except grpc.RpcError as error:
            if _code(error) in _UNKNOWN_OUTCOME:
                raise SignInRequired(
                    "the answer to ExchangeToken was lost, and a code must not be sent twice: "
                    "ask the user to sign in again"
                ) from error
            raise _explain(error) from error

    def refresh(self, request: pb.RefreshRequest) -> pb.RefreshResponse:
        """Renew (RFC 6749 §6); repeated while the answer may have been lost, within the authority's grace.

        Raises:
            SignInRequired: The grant has ended.
            RenewalFailed: There was no answer, or another refusal.
        """
        return self._repeat(lambda stub: stub.Refresh, request)

    def token_exchange(
        self, api_token: ApiToken, *, scopes: Iterable[str] = (), resource: str = ""
    ) -> pb.TokenExchangeResponse:
        """Exchange an API token (RFC 8693); repeated as `refresh` is.

        Raises:
            RenewalFailed: There was no answer, or a refusal.
        """
        request = pb.TokenExchangeRequest(
            subject_token=api_token.token,
            subject_token_type=_API_TOKEN_TYPE,
            client_id=api_token.app_id,
            scopes=scopes,
            resource=resource,
        )
        return self._repeat(lambda stub: stub.TokenExchange, request)

    def _repeat(
        self,
        method_of: Callable[[pb_grpc.TokenServiceStub], grpc.UnaryUnaryMultiCallable[Request, Answer]],
        request: Request,
    ) -> Answer:
        for attempt in range(_ATTEMPTS):
            try:
                return method_of(self._stub())(request, timeout=self._timeout)
            except grpc.RpcError as error:
                if _code(error) not in _UNKNOWN_OUTCOME or attempt == _ATTEMPTS - 1:
                    raise _explain(error) from error
            self._sleep(min(_LONGEST_DELAY, _FIRST_DELAY * 4.0**attempt) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        raise AssertionError("unreachable")

    def _stub(self) -> pb_grpc.TokenServiceStub:
        with self._opening:
            if self._channel is None:
                tls = self._tls or grpc.ssl_channel_credentials()
                self._channel = grpc.secure_channel(self._target, tls, self._options)
            return pb_grpc.TokenServiceStub(self._channel)


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    # What stubs raise is a call too, which the stubs' types do not say.
    code: grpc.StatusCode = error.code()
    return code


def _explain(error: grpc.RpcError) -> RenewalFailed:
    """What a refusal means for whoever holds the credential; the authority's texts carry no secret."""
    match reason_of(error):
        case Reason.GRANT_INVALID:
            return SignInRequired()
        case Reason.CLIENT_INVALID:
            return RenewalFailed("the authority does not know this client: check client_id and client_secret")
        case reason:
            text = f"{reason or _code(error).name}: {error.details()}"
            return RenewalFailed(f"the authority gave no token ({text})", retry_after=retry_delay_of(error))
