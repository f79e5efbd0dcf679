"""The gRPC server of the authority: which services, behind which interceptors, within which limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import rpz_auth
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from rpz.auth.v1 import (
    administration_service_pb2_grpc,
    app_service_pb2_grpc,
    token_service_pb2_grpc,
    verification_service_pb2_grpc,
)
from rpz_auth.address import Peer
from rpz_auth.errors import Refusal

from rpz_auth_server.domain import scope
from rpz_auth_server.domain.refusal import ApiTokenInvalid, RateLimited
from rpz_auth_server.flows.authority import Authority
from rpz_auth_server.flows.limits import Limiter
from rpz_auth_server.live.hub import Hub
from rpz_auth_server.live.local_authority import LocalAuthority
from rpz_auth_server.live.verifiers import MOST, Verifiers
from rpz_auth_server.transport import ports, sockets
from rpz_auth_server.transport.descriptors import left_for_grpc
from rpz_auth_server.transport.grpc.administration_service import AdministrationService
from rpz_auth_server.transport.grpc.app_service import AppService
from rpz_auth_server.transport.grpc.health import Health
from rpz_auth_server.transport.grpc.patience import LONGEST, PatienceInterceptor
from rpz_auth_server.transport.grpc.refusals import RefusalInterceptor
from rpz_auth_server.transport.grpc.token_service import TokenService
from rpz_auth_server.transport.grpc.verification_service import VerificationService

if TYPE_CHECKING:  # what it imports is optional
    from rpz_auth_server.transport.traces import Traces

_SERVICES = (
    "rpz.auth.v1.TokenService",
    "rpz.auth.v1.AppService",
    "rpz.auth.v1.VerificationService",
    "rpz.auth.v1.AdministrationService",
)
_HEALTH = "grpc.health.v1.Health"
_PUBLIC_STREAMS = frozenset({f"/{_HEALTH}/Watch"})
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
_DRAIN = 10.0
_OPTIONS: Sequence[tuple[str, Any]] = (
    # Requests are small; what is not is refused before it is parsed.
    ("grpc.max_receive_message_length", 256 * 1024),
    # The core counts a stream until its last bytes are gone, and refuses what comes above: at 100, a client
    # with 64 calls under way was refused some.
    ("grpc.max_concurrent_streams", 256),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Verifiers ping on an open stream; others need not.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


_MOST_CONNECTIONS = 20_000


def _sharing(connection_age: float | None) -> Sequence[tuple[str, Any]]:
    if connection_age is None:
        # Else a second server on the same port starts without an error and takes half of the calls.
        return (("grpc.so_reuseport", 0),)
    return (("grpc.so_reuseport", 1), ("grpc.max_connection_age_ms", int(1000 * connection_age)))


class GrpcServer:
    """The authority on one address."""

    def __init__(
        self,
        authority: Authority,
        hub: Hub,
        *,
        offer_reflection: bool,
        trusted_proxies: Iterable[str] = (),
        streams_per_verifier: int = MOST,
        connection_age: float | None = None,
        longest_call: float = LONGEST,
        traces: Traces | None = None,
    ) -> None:
        """Put the services together; nothing listens yet.

        Args:
            authority: Whose flows are served.
            hub: Whose news are told.
            offer_reflection: To authenticated callers.
            trusted_proxies: Networks whose x-forwarded-for is believed.
            streams_per_verifier: That may be open at once.
            connection_age: For one of several workers on a port: seconds after which a connection is asked to
                be made anew, on whichever of them.
            longest_call: Seconds within which a unary call is complete, or refused.
            traces: Make spans of calls.
        """
        policies = {_HEALTH: rpz_auth.PUBLIC}
        if offer_reflection:
            policies[_REFLECTION] = rpz_auth.scopes(scope.APPS)
        # Patience comes before authentication, which may wait for a message; authentication before all else,
        # so that nothing else runs for callers that are refused; refusals stand next to the handlers, whose
        # exceptions they turn into status.
        auth = rpz_auth.AuthInterceptor(
            LocalAuthority(authority),
            resource=authority.issuer,
            services=_SERVICES,
            policies=policies,
            trusted_proxies=trusted_proxies,
            when_stale=rpz_auth.REFUSE,  # there is nobody else whom it could ask
            allow_client_policy=True,
            on_refusal=_refusals_of(authority.limiter),
        )
        self._refusals = RefusalInterceptor(authority.limiter)
        interceptors: list[grpc.aio.ServerInterceptor] = [
            PatienceInterceptor(longest_call, public_streams=_PUBLIC_STREAMS),
            auth,
            self._refusals,
        ]
        if traces is not None:
            interceptors.insert(0, traces.interceptor())  # so that a span has the decision, too
            auth.on_decision(traces.decided)
            self._refusals.refused = traces.decided
        most = ("grpc.max_allowed_incoming_connections", left_for_grpc(_MOST_CONNECTIONS))
        self._server = grpc.aio.server(
            interceptors=interceptors,
            options=[*_OPTIONS, *_sharing(connection_age), most],
        )
        self._connection_age = connection_age or 0.0
        self._port = 0
        self._health = Health(_SERVICES)
        self.verifiers = Verifiers(most=streams_per_verifier)
        """Which are connected."""
        methods: Any = _ByName(self._server)
        token_service_pb2_grpc.add_TokenServiceServicer_to_server(TokenService(authority), methods)
        app_service_pb2_grpc.add_AppServiceServicer_to_server(AppService(authority), methods)
        verification_service_pb2_grpc.add_VerificationServiceServicer_to_server(
            VerificationService(authority, hub, self.verifiers), methods
        )
        # What the contract has and this version does not answers UNIMPLEMENTED; the stubs call it abstract.
        administration_service_pb2_grpc.add_AdministrationServiceServicer_to_server(
            AdministrationService(authority, hub, self.verifiers), methods
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        if offer_reflection:
            reflection.enable_server_reflection((*_SERVICES, _HEALTH, _REFLECTION), self._server)

    def time_calls(self, took: Callable[[str, float], None]) -> None:
        """Tell of each call's method and seconds; before the first call."""
        self._refusals.took = took

    def listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Take a port, without TLS when there are no credentials; return its number.

        Raises:
            ConfigurationError: It is taken.
        """
        try:
            if credentials is None:
                self._port = self._server.add_insecure_port(address)
            else:
                self._port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise ports.not_to_be_had(address, "--grpc-address") from None
        return self._port

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def leave(self, hurry: asyncio.Event) -> None:
        """Serve those who are connected until each has gone elsewhere, but take nobody new.

        A server that is stopped cancels what arrives before its clients know; one whose connections have
        reached their age tells them first. `hurry` ends the wait.
        """
        self._health.stop()
        sockets.stop_listening(self._port)
        # The core shortens or lengthens each age by up to a tenth; after that only streams hold connections.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.1 * self._connection_age + 1):
                while sockets.count_connections(self._port) and not hurry.is_set():  # noqa: ASYNC110 - the core tells nobody
                    await asyncio.sleep(0.05)

    async def stop(self, hub: Hub) -> None:
        """Say that it stops, end the streams, let the calls in flight finish."""
        self._health.stop()
        hub.dismiss()
        await self._server.stop(_DRAIN)


class _ByName:
    """Takes a service's methods to be found by their names, not registered with the core one by one as well.

    For each call grpc.aio waits anew for all methods that are registered, with a future for each: for the
    authority's forty that takes 15 µs.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Called by generated code, which has handed over the same handlers as generic ones before."""


def _refusals_of(limiter: Limiter) -> Callable[[Refusal, Peer], Awaitable[None]]:
    """Count what is refused before it reaches a method, and hold guessers back."""

    async def refused(refusal: Refusal, peer: Peer) -> None:
        if not isinstance(refusal, ApiTokenInvalid | RateLimited):  # counted where the token was looked at
            limiter.refusals.record(refusal.reason, refusal.app_id)
        await limiter.hold_back(refusal, peer)

    return refused
