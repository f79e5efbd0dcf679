"""The interceptor that a service installs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

from rpz_auth.address import Peer, certificate_names, parse_peer
from rpz_auth.authority import Authority, decider_for
from rpz_auth.caller import Admission, Caller
from rpz_auth.decide import run, run_async
from rpz_auth.errors import ConfigurationError, Reason, Refusal
from rpz_auth.grpc import aio, sync
from rpz_auth.grpc.aio_context import CallContext
from rpz_auth.grpc.census import Census
from rpz_auth.policy import CLIENT, Policy, read_policies
from rpz_auth.service.health import AuthStatus
from rpz_auth.service.lifecycle import START_TIMEOUT, Lifecycle
from rpz_auth.service.observe import Observer
from rpz_auth.service.running import End, Lease, RunningStreams
from rpz_auth.staleness import CHECK, WhenStale, WhenStaleTable

_log = logging.getLogger("rpz_auth")

CANCEL_AFTER = 0.03
"""Seconds after which a stream on a synchronous server whose credential has ended is cancelled."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
OnDecision: TypeAlias = Callable[[Reason | None], None]
OnRefusal: TypeAlias = Callable[[Refusal, Peer], Awaitable[None]]
_Wrap: TypeAlias = "Callable[[Handler | None, str], Handler]"


class AuthInterceptor(grpc.ServerInterceptor, grpc.aio.ServerInterceptor):
    """Authenticates every call to a server, checks its method's policy and its App's whitelist.

    One class serves `grpc.server` and `grpc.aio.server`. Use it as a context manager around the
    server: entering waits for what the authority has to say, leaving lets go of it. Until then, and
    whenever the authority has been silent for too long, calls are refused with UNAVAILABLE.
    Enter it in the process that serves, after any fork: a child that inherits it entered learns nothing more.

    Place it before interceptors that act on a call, behind those that only watch or log.
    """

    def __init__(  # noqa: PLR0913 - options, each by its name
        self,
        authority: Authority,
        *,
        resource: str,
        services: Iterable[str] = (),
        policies: Mapping[str, Policy] | None = None,
        trusted_proxies: Iterable[str] = (),
        when_stale: WhenStale | Mapping[str, WhenStale] = CHECK,
        observe: bool = False,
        start_timeout: float = START_TIMEOUT,
        allow_client_policy: bool = False,
        on_refusal: OnRefusal | None = None,
    ) -> None:
        """Decide for the named services.

        Args:
            authority: From `rpz_auth.connect`, or a fake one in tests.
            resource: What access tokens must name in `aud` and API tokens in their resources (RFC 8707).
            services: Full names of services whose .proto carries policies, as in `orders.v1.OrderService`.
            policies: For services one cannot change: the full name of a service, or the path of a
                method, to its policy, as in `{"grpc.health.v1.Health": rpz_auth.PUBLIC}`.
            trusted_proxies: Addresses and networks whose `x-forwarded-for` is believed.
            when_stale: What becomes of calls while the authority is silent: `CHECK`, `REFUSE` or
                `serve(until=…)`; for all, or by the full name of a service or path of a method.
            observe: Decide, log and count what would be refused, and let it pass: to introduce the
                interceptor into a running service. Handlers then find no caller where there is none.
            start_timeout: Seconds that entering waits for the authority's first word.
            allow_client_policy: Whether methods may authenticate their OAuth 2 clients themselves, as
                the authority's do; the interceptor then lets their calls pass unseen.
            on_refusal: Awaited on asyncio before a refusal is answered, to count it or to let a guesser
                wait; a synchronous server would hold a thread meanwhile, and does not ask.

        Raises:
            ConfigurationError: A method has no policy, or `client`; a service is unknown; a network
                has a typing error.
        """
        self.policies = read_policies(services, policies or {})
        if CLIENT in self.policies.values() and not allow_client_policy:
            raise ConfigurationError("the policy `client` is for the authority's own methods; demand scopes")
        self._authority = authority
        self._decider = decider_for(authority, resource=resource, trusted_proxies=trusted_proxies)
        self._when_stale = WhenStaleTable(when_stale, self.policies)
        self._streams = RunningStreams(self._decider, authority.ask)
        self._observer = Observer() if observe else None
        self._census = Census()
        self._lifecycle = Lifecycle(
            authority,
            self._decider,
            resource=resource,
            policies=self.policies,
            needs_authority=self._when_stale.only_refuses,
            streams=self._streams,
            observer=self._observer,
            timeout=start_timeout,
        )
        self._guarded: dict[tuple[str, _Wrap], tuple[Handler | None, Handler]] = {}
        self._on_refusal = on_refusal
        self._on_decision: tuple[OnDecision, ...] = ()

    def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Put the decision before the handler; called by grpc for each call, does no work of its own."""
        handler = continuation(handler_call_details)
        if inspect.isawaitable(handler):
            return self._intercept_async(handler, handler_call_details.method)
        return self._guard(handler, handler_call_details.method, self._guard_sync)

    async def _intercept_async(self, handler: Any, method: str) -> Handler:
        return self._guard(await handler, method, self._guard_async)

    def _guard(self, handler: Handler | None, method: str, wrap: _Wrap) -> Handler:
        known = self._guarded.get((method, wrap))
        if known is not None and known[0] is handler:
            return known[1]
        guarded = wrap(handler, method)
        if method in self.policies:  # callers can make up any number of other names
            self._guarded[method, wrap] = (handler, guarded)
        return guarded

    def _guard_sync(self, handler: Handler | None, method: str) -> Handler:
        lease = self._lease_for(method)

        def admit(context: grpc.ServicerContext) -> Admission:
            metadata, peer = context.invocation_metadata(), peer_of(context)
            try:
                decision = self._decider.decide(policy, metadata, peer, when_stale)
                if not isinstance(decision, Admission):
                    decision = run(decision, self._authority.ask)
                return self._admitted(decision, metadata)
            except Refusal as refusal:
                admission = self._observe(method, refusal, peer)
                if admission is None:
                    raise
                return admission

        policy, when_stale = self.policies.get(method), self._when_stale.of(method)

        def enter(caller: Caller, context: grpc.ServicerContext) -> Lease:
            # A stream that is busy ends by itself at its next message, and its client is told why; nothing
            # but this ends one that is idle (grpc sends no status from another thread).
            def cancel() -> None:
                if context.is_active():
                    context.cancel()

            return lease(context, caller, lambda _: self._streams.later(CANCEL_AFTER, cancel))

        return sync.guard(handler, admit, enter)

    def _guard_async(self, handler: Handler | None, method: str) -> Handler:
        async def admit(context: CallContext) -> Admission:
            metadata, peer = context.invocation_metadata(), peer_of(context)
            try:
                decision = self._decider.decide(policy, metadata, peer, when_stale)
                if not isinstance(decision, Admission):
                    decision = await run_async(decision, self._authority.ask_async)
                return self._admitted(decision, metadata)
            except Refusal as refusal:
                if self._on_refusal is not None:
                    await self._on_refusal(refusal, self._decider.resolve(peer, metadata))
                admission = self._observe(method, refusal, peer)
                if admission is None:
                    raise
                return admission

        policy, when_stale = self.policies.get(method), self._when_stale.of(method)
        return aio.guard(handler, admit, self._lease_for(method))

    def _lease_for(self, method: str) -> Callable[[Any, Caller, End], Lease]:
        note = None if self._observer is None else functools.partial(self._observer.note, method)
        policy, when_stale = self.policies.get(method), self._when_stale.of(method)

        def lease(context: Any, caller: Caller, end: End) -> Lease:
            facts = context.invocation_metadata(), peer_of(context)
            again = functools.partial(self._decider.decide, policy, *facts, when_stale)
            return self._streams.lease(caller, end, again, when_stale=when_stale, observe=note)

        return lease

    def on_decision(self, told: OnDecision) -> None:
        """Tell of each decision its reason, None for a call that may pass; what is told must be quick."""
        self._on_decision = (*self._on_decision, told)

    def _admitted(self, admission: Admission, metadata: Any) -> Admission:
        for told in self._on_decision:
            told(None)
        if self._census.counting and admission.caller is not None:
            self._census.note(admission.peer, admission.caller.app_id, metadata)
        return admission

    def _observe(self, method: str, refusal: Refusal, peer: Peer) -> Admission | None:
        """Let pass what would be refused, if that is what this service wants for now."""
        for told in self._on_decision:
            told(refusal.reason)
        if self._observer is None:
            return None
        self._observer.note(method, refusal)
        return Admission(peer, None)

    def status(self) -> AuthStatus:
        """How this service stands with its authority."""
        return self._lifecycle.status()

    def __enter__(self) -> Self:
        """Connect, and wait up to `start_timeout` for the first snapshot.

        A service all of whose methods refuse when stale does not start without the authority. Any other
        does, and says so in its log: its calls are refused, or asked about one by one, until it answers.

        Raises:
            ConfigurationError: The authority refuses this service's verifier file.
            BackendUnavailable: The authority could not be reached.
        """
        self._lifecycle.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._lifecycle.stop()

    async def __aenter__(self) -> Self:
        """As `__enter__`, without blocking the loop."""
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._lifecycle.stop)


def peer_of(context: Any) -> Peer:
    """Read the other end of a call from its context, of either stack."""
    peer = parse_peer(context.peer())
    if not context.peer_identities():  # without a certificate, and all else takes much longer to read
        return peer
    return Peer(peer.address, unix=peer.unix, names=certificate_names(context.auth_context()))
