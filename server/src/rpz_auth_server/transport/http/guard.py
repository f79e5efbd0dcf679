"""What every request over HTTP goes through, whoever serves it: bounds, headers, faults, the log."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog
from rpz_auth.address import UNKNOWN, Peer, TrustedProxies, parse_address, with_origin
from rpz_auth.errors import Refusal
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rpz_auth_server.transport.http.answers import failed, plain, refused
from rpz_auth_server.transport.log_budget import FAULT_SECONDS, FAULTS, LogBudget

_log = structlog.get_logger("rpz_auth_server.http")

MAX_BODY = 64 * 1024
"""Bytes; forms are small, and what is not is refused before it is parsed."""
BODY_TIMEOUT = 10.0
"""Seconds for a body to be there, from the moment that it is asked for."""
REQUEST_TIMEOUT = 30.0

_LOGGED_REFUSALS = 20
"""A second; more are counted. A flood must not fill the disk."""
_LOGGED_ANSWERS = 200
"""A second; whoever asks for what is everybody's is not refused, and may ask as often."""

SECURITY_HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer that does not bring its own of the same name (RFC 9700 §4.16, §4.2.4)."""
_HSTS = (b"strict-transport-security", b"max-age=31536000")

_PORT = rb"(?::[0-9]{1,5})?"
_HOST = re.compile(rb"(?:[A-Z0-9._-]{1,253}|\[[0-9A-F:.]{2,45}\])" + _PORT, re.IGNORECASE)
_OWN_HOST = re.compile(rb"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])" + _PORT, re.IGNORECASE)
_GONE = 499
"""In the log, of a client that did not wait for its answer; nginx has made it a custom."""


class Guard:
    """The outermost layer of the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        trusted_proxies: Iterable[str] = (),
        names: Mapping[object, str] | None = None,
    ) -> None:
        """Guard `app`.

        Args:
            app: Serves the requests.
            trusted_proxies: Addresses and networks whose `x-forwarded-for` is believed.
            names: What those endpoints are called whose requests are timed.
        """
        self._app = app
        self._proxies = TrustedProxies(trusted_proxies)
        self._names = names or {}
        self._took: Callable[[str, float], None] | None = None
        self._refusals = LogBudget(_log, records=_LOGGED_REFUSALS, seconds=1.0)
        self._answers = LogBudget(_log, records=_LOGGED_ANSWERS, seconds=1.0)
        self._faults = LogBudget(_log, records=FAULTS, seconds=FAULT_SECONDS)

    def time_calls(self, took: Callable[[str, float], None]) -> None:
        """Tell of each request's endpoint, by its name, and of the seconds since all of it was there."""
        self._took = took

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        began = time.monotonic()
        peer = self._resolve(scope)
        scope["state"]["peer"] = peer
        body, answer = _Body(scope, receive), _Answer(send, secure=scope["scheme"] == "https")
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await self._serve(scope, body, answer)
        except _Gone:
            answer.status = answer.status or _GONE
        except _TooLarge:
            await answer.give(scope, plain(413, "The body is too large."))
        except _TooSlow:
            await answer.give(scope, plain(408, "The body did not come in time."))
        except TimeoutError:
            await answer.give(scope, plain(503, "The request took too long; try again."))
        except Refusal as refusal:
            await answer.give(scope, refused(refusal))
        except Exception as error:  # noqa: BLE001 - uvicorn would log it with the request
            if self._faults.take():
                _log.error("a request failed", exc_info=error, path=_shown(scope))
            await answer.give(scope, failed())
        finally:
            ended = time.monotonic()
            name = self._names.get(scope.get("endpoint"))
            if self._took is not None and name is not None and body.whole_at is not None:
                self._took(name, ended - body.whole_at)
            self._record(scope, answer.status, peer, ended - began)

    async def _serve(self, scope: Scope, body: _Body, answer: _Answer) -> None:
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        # Without TLS no certificate proves the name, and a page may have let its own lead here (DNS
        # rebinding): only names that are always this machine are taken.
        if scope["scheme"] != "https" and not any(map(_OWN_HOST.fullmatch, hosts)):
            await answer.give(scope, plain(421, "Use the address that rpz-auth-server printed."))
            return
        # A whole URL as the target is what proxies get, which this is not. HTTP/1.0 has no host; whatever it
        # is, no link is ever made of it (A61, A146).
        if scope["raw_path"][:1] != b"/" or len(hosts) > 1 or not all(map(_HOST.fullmatch, hosts)):
            await answer.give(scope, plain(400, "The request's address cannot be read."))
            return
        body.check_length()
        await self._app(scope, body.receive, answer.send)

    def _resolve(self, scope: Scope) -> Peer:
        client = scope.get("client")
        try:
            address = parse_address(client[0]) if client else None
        except ValueError:
            address = None
        if address is None or address.is_unspecified:
            return UNKNOWN
        peer = Peer(address, names=scope["state"].get("certificate_names", frozenset()))
        headers = [(key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"]]
        return with_origin(self._proxies.resolve(peer, headers), headers)

    def _record(self, scope: Scope, status: int, peer: Peer, seconds: float) -> None:
        """Write the access log: no query, no header, nothing that could hold a credential."""
        budget = self._refusals if status >= 400 else self._answers  # noqa: PLR2004 - where refusals begin
        if not budget.take():
            return
        _log.info(
            "request",
            method=scope["method"][:16],
            path=_shown(scope),
            status=status,
            peer=str(peer),
            ms=round(seconds * 1000, 1),
        )


def peer_of(request: Request) -> Peer:
    """The client's end of the connection, or the client behind a trusted proxy."""
    peer: Peer = request.state.peer
    return peer


def _shown(scope: Scope) -> str:
    return str(scope["path"])[:100]


class _Gone(Exception):  # noqa: N818 - nobody's fault
    pass


class _TooLarge(Exception):  # noqa: N818 - an answer, not a fault
    pass


class _TooSlow(Exception):  # noqa: N818 - an answer, not a fault
    pass


class _Body:
    """A request's body, up to a size and a time."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._headers = scope["headers"]
        self._receive = receive
        self._size = 0
        self.whole_at: float | None = time.monotonic()
        """When all of it was there; None while it is waited for. One that nobody asks for is not."""
        self._deadline: float | None = None

    def check_length(self) -> None:
        """Refuse what says by itself that it is too large, before any of it is read."""
        for key, value in self._headers:
            if key == b"content-length" and int(value) > MAX_BODY:  # h11 has let nothing but digits pass
                raise _TooLarge

    async def receive(self) -> Message:
        """Receive the next part."""
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + BODY_TIMEOUT
            self.whole_at = None
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise _TooSlow from None
        if message["type"] == "http.disconnect" and self.whole_at is None:
            raise _Gone
        self._size += len(message.get("body", b""))
        if self._size > MAX_BODY:
            raise _TooLarge
        if not message.get("more_body"):
            self.whole_at = self.whole_at or time.monotonic()
            self._deadline = loop.time() + REQUEST_TIMEOUT  # from here on only a disconnection can come
        return message


class _Answer:
    """What goes out, with the headers that nothing may leave without."""

    def __init__(self, send: Send, *, secure: bool) -> None:
        self._send = send
        self._headers = (*SECURITY_HEADERS, _HSTS) if secure else SECURITY_HEADERS
        self.status = 0

    async def send(self, message: Message) -> None:
        """Send on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            message = {
                **message,
                "headers": [*given, *((name, value) for name, value in self._headers if name not in names)],
            }
        await self._send(message)

    async def give(self, scope: Scope, response: ASGIApp) -> None:
        """Answer in place of the application, if it has not begun to."""
        if (
            not self.status
        ):  # what has begun cannot be taken back; uvicorn closes on it, and the client sees that
            await response(scope, _nothing, self.send)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
