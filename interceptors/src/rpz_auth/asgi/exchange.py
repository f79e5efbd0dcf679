"""One request or websocket between server and application: refused, or run while its credential holds."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from rpz_auth.caller import Caller
from rpz_auth.errors import Internal, Reason, Refusal
from rpz_auth.http_status import bearer_challenge, body
from rpz_auth.service.held_back import is_late
from rpz_auth.service.running import End, Lease
from rpz_auth.status import TABLE

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Enter: TypeAlias = Callable[[Caller, End], Lease]
Again: TypeAlias = Callable[[], Awaitable[object]]
Header: TypeAlias = tuple[bytes, bytes]

_VARY = b"Authorization, X-Rpz-Auth, Origin"
_REQUESTS = frozenset({"http.request", "websocket.receive"})
_REJECTION = "websocket.http.response"
"""The ASGI extension by which a websocket is refused with an answer; without it servers send a bare 403."""

# Registered with IANA: 3000 Unauthorized, 3003 Forbidden; 1013 Try Again Later.
_CLOSE_CODES = {401: 3000, 403: 3003, 503: 1013}
_POLICY_VIOLATION = 1008
_MAX_REASON = 100  # RFC 6455 §5.5: 123 bytes


class StreamEnded(OSError):  # noqa: N818 - ASGI has `send` raise OSError when nobody listens any more
    """The credential of a running stream has stopped to hold."""


class Exchange:
    """What passes between server and application."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, protected: bool, hides_url: bool
    ) -> None:
        """Stand between them.

        Args:
            scope: Of the request.
            receive: The server's.
            send: The server's.
            protected: Whether the answer depends on the credential, and so must not be stored.
            hides_url: Whether pages must not tell others the URL that they were loaded from.
        """
        self._scope = scope
        self._receive = receive
        self._send = send
        self._protected = protected
        self._hides_url = hides_url
        self._is_websocket = scope["type"] == "websocket"
        self._enter: Callable[[], Lease] | None = None
        self._again: Again | None = None
        self._decided_at = math.inf
        self._lease: Lease | None = None
        self._refusal: Refusal | None = None
        self._has_begun = False
        self._is_over = False
        self._is_cancelled = False
        self._running: asyncio.Task[Any] | None = None

    async def refuse(self, refusal: Refusal) -> None:
        """Answer in place of the application."""
        kind = "http.response"
        if self._is_websocket:
            await self._receive()  # websocket.connect
            if _REJECTION not in self._scope.get("extensions", {}):
                await self._send({"type": "websocket.close", "code": _close_code(refusal), "reason": ""})
                return
            kind = _REJECTION
        headers = _refusal_headers(refusal)
        status = TABLE[refusal.reason].http
        await self._send({"type": f"{kind}.start", "status": status, "headers": headers})
        is_head = self._scope.get("method") == "HEAD"
        await self._send({"type": f"{kind}.body", "body": b"" if is_head else body(refusal)})

    async def run(
        self, app: Callable[..., Awaitable[None]], caller: Caller | None, enter: Enter, again: Again
    ) -> None:
        """Let the application serve. A stream ends when its caller's credential does.

        Args:
            app: The application.
            caller: Who was let in; None for somebody who need not be known.
            enter: Leases a stream.
            again: Decides anew, about a caller whose request took its time to arrive.
        """
        loop = asyncio.get_running_loop()
        self._running = asyncio.current_task()
        self._decided_at = time.monotonic()

        def end(_refusal: Refusal) -> None:  # in any thread
            loop.call_soon_threadsafe(self._cancel)

        if caller is not None:
            self._enter, self._again = functools.partial(enter, caller, end), again
        if self._is_websocket and not self._begin_stream():
            await self.refuse(self._refusal or Internal())  # what came between the decision and here
            return
        try:
            await app(self._scope, self._pull, self._push)
        except (Exception, asyncio.CancelledError) as error:
            # Frameworks turn the end of a stream into exceptions of their own.
            if self._refusal_by_now() is None or self._is_cancelled_by_others(error):
                raise
        finally:
            self._running = None
            if self._lease is not None:
                self._lease.release()
        await self._break_off()

    def _begin_stream(self) -> bool:
        """From here on the credential must hold; False if it does not already."""
        if self._lease is None and self._enter is not None:
            try:
                self._lease = self._enter()
            except Refusal as refusal:
                self._refusal = refusal
        return self._refusal is None

    def _refusal_by_now(self) -> Refusal | None:
        if self._refusal is None and self._lease is not None:
            self._refusal = self._lease.refusal
        return self._refusal

    def _holds(self) -> bool:
        if self._lease is not None and self._refusal is None:
            try:
                self._lease.check()
            except Refusal as refusal:
                self._refusal = refusal
        return self._refusal is None

    def _is_cancelled_by_others(self, error: BaseException) -> bool:
        return (
            isinstance(error, asyncio.CancelledError)
            and self._running is not None
            and (self._running.uncancel() if self._is_cancelled else self._running.cancelling()) > 0
        )

    def _cancel(self) -> None:
        if self._running is not None:
            self._is_cancelled = True
            self._running.cancel()

    async def _pull(self) -> Message:
        message = await self._receive() if self._holds() else None
        if message is not None and message["type"] == "http.request":
            await self._decide_anew()
        if message is None or (message["type"] in _REQUESTS and not self._holds()):
            kind = "websocket.disconnect" if self._is_websocket else "http.disconnect"
            return {"type": kind, "code": _POLICY_VIOLATION}
        return message

    async def _decide_anew(self) -> None:
        """Let a part of the body pass; the client may have held it back until its credential ended."""
        if self._again is None or self._refusal is not None or not is_late(self._decided_at):
            return
        try:
            await self._again()
        except Refusal as refusal:
            self._refusal = refusal
        self._decided_at = time.monotonic()

    async def _push(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", f"{_REJECTION}.start") and self._protected:
            headers = _own_headers(message.get("headers", ()), hides_url=self._hides_url)
            message = {**message, "headers": headers}
        is_last = not message.get("more_body", False)
        if kind == "http.response.body" and not is_last:
            self._begin_stream()
        if not self._holds():
            raise StreamEnded("the credential of this stream does not hold any more")
        self._has_begun = True
        self._is_over = kind == "websocket.close" or (kind == "http.response.body" and is_last)
        await self._send(message)

    async def _break_off(self) -> None:
        """Tell who can be told. An answer that has begun is left incomplete, on which servers disconnect."""
        refusal = self._refusal_by_now()
        if refusal is None or self._is_over:
            return
        if not self._has_begun and not self._is_websocket:
            await self.refuse(refusal)
        elif self._is_websocket:
            text = refusal.message[:_MAX_REASON]
            await self._send({"type": "websocket.close", "code": _close_code(refusal), "reason": text})


def _refusal_headers(refusal: Refusal) -> list[Header]:
    headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"vary", _VARY),
    ]
    if refusal.reason is not Reason.ORIGIN_NOT_ALLOWED and TABLE[refusal.reason].http in (400, 401, 403):
        headers.append((b"www-authenticate", bearer_challenge(refusal).encode("ascii")))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(refusal.retry_after))).encode("ascii")))
    return headers


def _own_headers(headers: Iterable[Header], *, hides_url: bool) -> list[Header]:
    """The application's, and that the answer was for this caller alone."""
    own = list(headers)
    names = {name.lower() for name, _ in own}
    if b"cache-control" not in names:
        own.append((b"cache-control", b"no-store"))
    if hides_url and b"referrer-policy" not in names:
        own.append((b"referrer-policy", b"no-referrer"))
    return [*own, (b"vary", _VARY)]


def _close_code(refusal: Refusal) -> int:
    return _CLOSE_CODES.get(TABLE[refusal.reason].http, _POLICY_VIOLATION)
