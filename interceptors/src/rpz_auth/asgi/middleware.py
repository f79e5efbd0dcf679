"""The middleware that stands before an ASGI application."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rpz_auth.address import UNKNOWN, Peer, parse_address
from rpz_auth.asgi import query_token
from rpz_auth.asgi.exchange import Exchange, Receive, Scope, Send
from rpz_auth.asgi.paths import WEBSOCKET, PathTable
from rpz_auth.authority import Authority, decider_for
from rpz_auth.caller import CURRENT, Admission
from rpz_auth.credentials import OWN_KEY, STANDARD_KEY
from rpz_auth.decide import Asking, Metadata, run_async
from rpz_auth.errors import Internal, Refusal
from rpz_auth.policy import Demand, Policy
from rpz_auth.service.health import AuthStatus
from rpz_auth.service.lifecycle import START_TIMEOUT, Lifecycle
from rpz_auth.service.observe import Observer
from rpz_auth.service.running import RunningStreams
from rpz_auth.staleness import CHECK, Mode, WhenStale

_log = logging.getLogger("rpz_auth")


class AuthMiddleware:
    """Authenticates every request, checks its path's policy and its App's whitelist.

    Connects when the server starts the application (ASGI lifespan) and lets go when it stops it. Until
    then, and whenever the authority has been silent for too long, requests are refused with 503.

    Place it before everything that acts on a request; a CORS middleware stands before it, since browsers
    send preflights without credentials.
    """

    def __init__(  # noqa: PLR0913 - options, each by its name
        self,
        app: Any,
        authority: Authority,
        *,
        resource: str,
        policies: Mapping[str, Policy],
        trusted_proxies: Iterable[str] = (),
        when_stale: WhenStale = CHECK,
        query_token: bool = False,
        observe: bool = False,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        """Stand before `app`.

        Args:
            app: An ASGI application.
            authority: From `rpz_auth.connect`, or a fake one in tests.
            resource: What access tokens must name in `aud` and API tokens in their resources (RFC 8707).
            policies: By path, perhaps with a method before: see `rpz_auth.paths.PathTable`.
            trusted_proxies: Addresses and networks whose `x-forwarded-for` is believed.
            when_stale: What becomes of requests while the authority is silent.
            query_token: Take API tokens of frontend Apps from `?token=App ID:API token`, too, where
                authority and App allow it. The parameter is taken out of the URL in any case.
            observe: Decide, log and count what would be refused, and let it pass.
            start_timeout: Seconds that the start waits for the authority's first word.

        Raises:
            ConfigurationError: A key of `policies` is not of its form or counts for nothing; a network
                has a typing error.
        """
        self.policies = PathTable(policies)
        self._app = app
        self._authority = authority
        self._decider = decider_for(authority, resource=resource, trusted_proxies=trusted_proxies)
        self._streams = RunningStreams(self._decider, authority.ask)
        self._when_stale = when_stale
        self._query_token = query_token
        self._observer = Observer() if observe else None
        self._lifecycle = Lifecycle(
            authority,
            self._decider,
            resource=resource,
            policies=self.policies,
            needs_authority=when_stale.mode is Mode.REFUSE,
            streams=self._streams,
            observer=self._observer,
            timeout=start_timeout,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, one websocket, or the life of the application."""
        match scope["type"]:
            case "lifespan":
                await self._app(scope, self._living(receive), send)
            case "http" | "websocket":
                await self._guard(scope, receive, send)
            case _:  # what it is nobody here knows, so it does not pass
                return

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = self._policy(scope)
        exchange = Exchange(
            scope,
            receive,
            send,
            protected=policy is None or policy.demand is Demand.SCOPES,
            hides_url=self._query_token,
        )
        metadata, peer = _metadata(scope), _peer(scope)
        in_url = query_token.strip(scope) if self._query_token else ()
        decide = functools.partial(self._decide, policy, metadata, peer, in_url)

        async def admit() -> Admission:
            try:
                return await run_async(decide(), self._authority.ask_async)
            except Refusal as refusal:
                if self._observer is None:
                    raise
                self._observer.note(_route_path(scope), refusal)
                return Admission(peer, None)
            except Exception:  # noqa: BLE001 - whatever it is, the request must not pass
                _log.exception("rpz-auth: a request could not be decided")
                raise Internal from None

        try:
            admission = await admit()
        except Refusal as refusal:
            await exchange.refuse(refusal)
            return
        note = None if self._observer is None else functools.partial(self._observer.note, _route_path(scope))
        lease = functools.partial(
            self._streams.lease, again=decide, when_stale=self._when_stale, observe=note
        )
        token = CURRENT.set(admission)
        try:
            await exchange.run(self._app, admission.caller, lease, admit)
        finally:
            CURRENT.reset(token)

    def _policy(self, scope: Scope) -> Policy | None:
        if scope["type"] == "websocket":
            return self.policies.find(WEBSOCKET, _route_path(scope))
        # A client can send any word as a method, that of websockets among them.
        return (
            None if scope["method"] == WEBSOCKET else self.policies.find(scope["method"], _route_path(scope))
        )

    def _decide(
        self, policy: Policy | None, metadata: Metadata, peer: Peer, in_url: Sequence[str]
    ) -> Asking[Admission]:
        """Decide by the header, and only without one by the URL.

        Raises:
            Refusal: The request must not pass.
        """
        has_header = any(key in (OWN_KEY, STANDARD_KEY) for key, _ in metadata)
        by_url = bool(in_url) and not has_header and (policy is None or policy.demand is Demand.SCOPES)
        if by_url:
            metadata = [*metadata, (STANDARD_KEY, query_token.as_field(in_url))]
        decision = self._decider.decide(policy, metadata, peer, self._when_stale)
        admission = decision if isinstance(decision, Admission) else (yield from decision)
        if by_url and admission.caller is not None:
            self._decider.view.check_query_token(admission.caller.verdict)
        return admission

    def status(self) -> AuthStatus:
        """How this service stands with its authority."""
        return self._lifecycle.status()

    def _living(self, receive: Receive) -> Receive:
        """Start before the application does, and stop behind it."""

        async def living() -> Any:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await asyncio.to_thread(self.start)
            elif message["type"] == "lifespan.shutdown":
                await asyncio.to_thread(self.stop)
            return message

        return living

    def start(self) -> None:
        """Connect, and wait for the first snapshot; for servers without a lifespan.

        Raises:
            ConfigurationError: The authority refuses this service's verifier file.
            BackendUnavailable: It could not be reached, and nothing may pass without it.
        """
        self._lifecycle.start()

    def stop(self) -> None:
        """Let go of the authority."""
        self._lifecycle.stop()


def _route_path(scope: Scope) -> str:
    """The path that the application routes by: without what it is mounted under."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _metadata(scope: Scope) -> Metadata:
    return [(key.decode("latin-1").lower(), value.decode("latin-1")) for key, value in scope["headers"]]


def _peer(scope: Scope) -> Peer:
    """The other end of the connection. ASGI does not say which names its certificate has."""
    client, server = scope.get("client"), scope.get("server")
    if client is None:
        return Peer(None, unix=True) if server is not None and server[1] is None else UNKNOWN
    try:
        address = parse_address(client[0])
    except ValueError:
        return UNKNOWN
    return UNKNOWN if address.is_unspecified else Peer(address)
