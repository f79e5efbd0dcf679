"""Envoy's question about one request, read and decided about."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from rpz.auth.ext_authz.v1 import check_pb2 as pb

from rpz_auth.address import UNKNOWN, Peer, parse_address
from rpz_auth.authority import Authority, decider_for
from rpz_auth.decide import Decision, Metadata, run, run_async
from rpz_auth.errors import ConfigurationError, Internal, Refusal
from rpz_auth.ext_authz import answers
from rpz_auth.policy import CLIENT, Policy, PolicyTable, read_policies
from rpz_auth.service.health import AuthStatus
from rpz_auth.service.lifecycle import START_TIMEOUT, Lifecycle
from rpz_auth.staleness import CHECK, Mode, WhenStale

_log = logging.getLogger("rpz_auth")

SERVICE = "envoy.service.auth.v3.Authorization"
ROUTE = "rpz_auth_route"
"""The context extension by which a route of Envoy's names its policy."""
_DNS_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.?", re.ASCII)


class ExtAuthz:
    """Answers Envoy's `Check`; a path or route without a policy is refused."""

    def __init__(
        self,
        authority: Authority,
        *,
        resource: str,
        services: Iterable[str] = (),
        policies: Mapping[str, Policy] | None = None,
        routes: Mapping[str, Policy] | None = None,
        trusted_proxies: Iterable[str] = (),
        when_stale: WhenStale = CHECK,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        """Decide for the named services; arguments as in `AuthInterceptor`, and `routes`.

        Args:
            authority: From `rpz_auth.connect`, or a fake one in tests.
            resource: What credentials must be meant for.
            services: Full names of gRPC services behind Envoy, whose .proto carries policies.
            policies: For gRPC services one cannot change.
            routes: For requests that are not gRPC: from the name that a route of Envoy's gives as
                context extension `rpz_auth_route` to its policy.
            trusted_proxies: Those in front of Envoy, whose `x-forwarded-for` is believed.
            when_stale: What becomes of requests while the authority is silent.
            start_timeout: Seconds that entering waits for the authority's first word.

        Raises:
            ConfigurationError: As in `AuthInterceptor`.
        """
        if not (services or policies or routes):
            raise ConfigurationError("name what Envoy will ask about, by services, policies or routes")
        self.policies = read_policies(services, policies or {}) if services or policies else PolicyTable({})
        self.routes = dict(routes or {})
        if CLIENT in (*self.policies.values(), *self.routes.values()):
            raise ConfigurationError("the policy `client` is for the authority's own methods; demand scopes")
        self._authority = authority
        self._when_stale = when_stale
        self._decider = decider_for(authority, resource=resource, trusted_proxies=trusted_proxies)
        self._lifecycle = Lifecycle(
            authority,
            self._decider,
            resource=resource,
            policies=self.policies,
            needs_authority=when_stale.mode is Mode.REFUSE,
            timeout=start_timeout,
        )

    def add_to(self, server: grpc.Server | grpc.aio.Server) -> None:
        """Register with a server of either stack."""
        check = self._check_async if isinstance(server, grpc.aio.Server) else self._check
        handler = grpc.unary_unary_rpc_method_handler(
            check,
            request_deserializer=pb.CheckRequest.FromString,
            response_serializer=pb.CheckResponse.SerializeToString,
        )
        handlers: Any = grpc.method_handlers_generic_handler(SERVICE, {"Check": handler})
        server.add_generic_rpc_handlers((handlers,))

    def __enter__(self) -> Self:
        """Connect, and wait for the first snapshot; as `AuthInterceptor` does.

        Raises:
            ConfigurationError: The authority refuses the verifier file.
            BackendUnavailable: It could not be reached, and nothing may pass without it.
        """
        self._lifecycle.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._lifecycle.stop()

    def status(self) -> AuthStatus:
        """How this server stands with its authority."""
        return self._lifecycle.status()

    def _check(self, request: pb.CheckRequest, _context: Any) -> pb.CheckResponse:
        try:
            admission = run(self._decide(request), self._authority.ask)
        except Refusal as refusal:
            return answers.denied(refusal, is_grpc=_is_grpc(request))
        except Exception:  # noqa: BLE001 - whatever it is, the request must not pass
            _log.exception("rpz-auth: a decision for Envoy failed")
            return answers.denied(Internal(), is_grpc=_is_grpc(request))
        return answers.admitted(admission, (key for key, _ in _metadata(request)))

    async def _check_async(self, request: pb.CheckRequest, _context: Any) -> pb.CheckResponse:
        try:
            admission = await run_async(self._decide(request), self._authority.ask_async)
        except Refusal as refusal:
            return answers.denied(refusal, is_grpc=_is_grpc(request))
        except Exception:  # noqa: BLE001 - whatever it is, the request must not pass
            _log.exception("rpz-auth: a decision for Envoy failed")
            return answers.denied(Internal(), is_grpc=_is_grpc(request))
        return answers.admitted(admission, (key for key, _ in _metadata(request)))

    def _decide(self, request: pb.CheckRequest) -> Decision:
        attributes = request.attributes
        route = attributes.context_extensions.get(ROUTE)
        path = attributes.request.http.path.partition("?")[0]
        policy = self.policies.get(path) if route is None else self.routes.get(route)
        return self._decider.decide(policy, _metadata(request), _peer(attributes.source), self._when_stale)


def _metadata(request: pb.CheckRequest) -> Metadata:
    http = request.attributes.request.http
    if http.HasField("header_map"):
        return [
            (header.key, header.raw_value.decode("latin-1") if header.raw_value else header.value)
            for header in http.header_map.headers
        ]
    return list(http.headers.items())


def _is_grpc(request: pb.CheckRequest) -> bool:
    return any(
        key == "content-type" and str(value).startswith("application/grpc")
        for key, value in _metadata(request)
    )


def _peer(source: pb.Peer) -> Peer:
    """Who is connected to Envoy: of the connection itself, so no header has a say in it."""
    address = source.address
    # A URI or a subject is no DNS name; both have characters that none has.
    principal = source.principal if _DNS_NAME.fullmatch(source.principal) else ""
    names = frozenset({principal.lower().removesuffix(".")} if principal else ())
    if address.HasField("pipe"):
        return Peer(None, unix=True, names=names)
    try:
        return Peer(parse_address(address.socket_address.address), names=names)
    except ValueError:
        return UNKNOWN
