"""The interceptor that a service installs."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

from rpz_auth import grpc_aio, grpc_sync
from rpz_auth.address import Peer, TrustedProxies, certificate_names, parse_peer
from rpz_auth.authority import Authority
from rpz_auth.caller import Admission, Caller
from rpz_auth.decide import Decider, run, run_async
from rpz_auth.errors import ConfigurationError
from rpz_auth.grpc_aio_context import CallContext
from rpz_auth.policy import CLIENT, Policy, read_policies
from rpz_auth.running import Lease, RunningStreams

_log = logging.getLogger("rpz_auth")

START_TIMEOUT = 30.0
"""Seconds that `with interceptor:` waits for the authority."""
CANCEL_AFTER = 0.03
"""Seconds after which a stream on a synchronous server whose credential has ended is cancelled."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
_Wrap: TypeAlias = "Callable[[Handler | None, Policy | None], Handler]"


class AuthInterceptor(grpc.ServerInterceptor, grpc.aio.ServerInterceptor):
    """Authenticates every call to a server, checks its method's policy and its App's whitelist.

    One class serves `grpc.server` and `grpc.aio.server`. Use it as a context manager around the
    server: entering waits for what the authority has to say, leaving lets go of it. Until then, and
    whenever the authority has been silent for too long, calls are refused with UNAVAILABLE.

    Place it before interceptors that act on a call, behind those that only watch or log.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        resource: str,
        services: Iterable[str] = (),
        policies: Mapping[str, Policy] | None = None,
        trusted_proxies: Iterable[str] = (),
        allow_client_policy: bool = False,
    ) -> None:
        """Decide for the named services.

        Args:
            authority: From `rpz_auth.connect`, or a fake one in tests.
            resource: What access tokens must name in `aud` and API tokens in their resources (RFC 8707).
            services: Full names of services whose .proto carries policies, as in `orders.v1.OrderService`.
            policies: For services one cannot change: the full name of a service, or the path of a
                method, to its policy, as in `{"grpc.health.v1.Health": rpz_auth.PUBLIC}`.
            trusted_proxies: Addresses and networks whose `x-forwarded-for` is believed.
            allow_client_policy: Whether methods may authenticate their OAuth 2 clients themselves, as
                the authority's do; the interceptor then lets their calls pass unseen.

        Raises:
            ConfigurationError: A method has no policy, or `client`; a service is unknown; a network
                has a typing error.
        """
        self.policies = read_policies(services, policies or {})
        if CLIENT in self.policies.values() and not allow_client_policy:
            raise ConfigurationError("the policy `client` is for the authority's own methods; demand scopes")
        self._authority = authority
        self._decider = Decider(
            authority.view,
            issuer=authority.issuer,
            resource=resource,
            trusted_proxies=TrustedProxies(trusted_proxies),
        )
        self._streams = RunningStreams(self._decider)
        self._guarded: dict[tuple[str, _Wrap], tuple[Handler | None, Handler]] = {}
        self._resource = resource

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Put the decision before the handler; called by grpc for each call, does no work of its own."""
        handler = continuation(handler_call_details)
        if inspect.isawaitable(handler):
            return self._intercept_async(handler, handler_call_details.method)
        return self._guard(handler, handler_call_details.method, self._guard_sync)

    async def _intercept_async(self, handler: Any, method: str) -> Handler:
        return self._guard(await handler, method, self._guard_async)

    def _guard(self, handler: Handler | None, method: str, wrap: _Wrap) -> Handler:
        policy = self.policies.get(method)
        known = self._guarded.get((method, wrap))
        if known is not None and known[0] is handler:
            return known[1]
        guarded = wrap(handler, policy)
        if policy is not None:  # callers can make up any number of other names
            self._guarded[method, wrap] = (handler, guarded)
        return guarded

    def _guard_sync(self, handler: Handler | None, policy: Policy | None) -> Handler:
        def admit(context: grpc.ServicerContext) -> Admission:
            decision = self._decider.decide(policy, context.invocation_metadata(), peer_of(context))
            return run(decision, self._authority.ask)

        def enter(caller: Caller, context: grpc.ServicerContext) -> Lease:
            # A stream that is busy ends by itself at its next message, and its client is told why; nothing
            # but this ends one that is idle (grpc sends no status from another thread).
            def cancel() -> None:
                if context.is_active():
                    context.cancel()

            return self._streams.lease(caller, lambda _: self._streams.later(CANCEL_AFTER, cancel))

        return grpc_sync.guard(handler, admit, enter)

    def _guard_async(self, handler: Handler | None, policy: Policy | None) -> Handler:
        async def admit(context: CallContext) -> Admission:
            decision = self._decider.decide(policy, context.invocation_metadata(), peer_of(context))
            return await run_async(decision, self._authority.ask_async)

        return grpc_aio.guard(handler, admit, self._streams.lease)

    def __enter__(self) -> Self:
        """Connect, and wait up to `START_TIMEOUT` for the first snapshot.

        Raises:
            ConfigurationError: The authority refuses this service's verifier file.
            BackendUnavailable: The authority could not be reached.
        """
        _log.info("rpz-auth protects %s:\n%s", self._resource, self.policies)
        self._authority.start()
        try:
            self._authority.wait(START_TIMEOUT)
        except BaseException:
            self._authority.close()
            raise
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._authority.close()

    async def __aenter__(self) -> Self:
        """As `__enter__`, without blocking the loop."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._authority.close)


def peer_of(context: Any) -> Peer:
    """Read the other end of a call from its context, of either stack."""
    peer = parse_peer(context.peer())
    names = certificate_names(context.auth_context())
    return Peer(peer.address, unix=peer.unix, names=names) if names else peer
