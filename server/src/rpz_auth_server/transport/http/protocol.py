"""HTTP/1.1 as uvicorn speaks it, with bounds on connections that send nothing, or slowly."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import h11
from rpz_auth.address import UNKNOWN, Peer, TrustedProxies, certificate_names, parse_address
from uvicorn.protocols.http.h11_impl import H11Protocol

from rpz_auth_server.flows.limits import prefix_of
from rpz_auth_server.transport.http.guard import SECURITY_HEADERS

MAX_CONNECTIONS = 1000
MAX_OF_ONE_PEER = 200
"""Connections of one address, or of 64 bits of an IPv6 address; a trusted proxy is all of its clients."""
_PROXIES = "trusted proxies"
HEAD_TIMEOUT = 10.0
"""Seconds from when a connection stands, or from its last answer, until the next request's head is there."""


class Peers:
    """Who is connected to one listener, and how often."""

    def __init__(self, trusted_proxies: Iterable[str] = ()) -> None:
        """Count nobody yet, and the connections of trusted proxies in the sum only."""
        self._proxies = TrustedProxies(trusted_proxies)
        self._counts: Counter[str] = Counter()

    def enter(self, address: Any) -> str | None:
        """Count a connection; return under which name, or None for one too many, of all or of its peer.

        Args:
            address: Of its other end, as sockets have it.
        """
        try:
            peer = Peer(parse_address(address[0]))
        except (ValueError, TypeError, IndexError):  # gone already
            return None
        is_proxy = self._proxies.resolve(peer, ()) is UNKNOWN
        name = _PROXIES if is_proxy else prefix_of(peer)
        if self._counts.total() >= MAX_CONNECTIONS or (
            self._counts[name] >= MAX_OF_ONE_PEER and not is_proxy
        ):
            return None
        self._counts[name] += 1
        return name

    def leave(self, name: str) -> None:
        """Forget a connection."""
        self._counts[name] -= 1
        if self._counts[name] <= 0:
            del self._counts[name]


class Protocol(H11Protocol):
    """One connection. h11 is strict where others guess: what it cannot read exactly is refused (A148)."""

    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, leave: Callable[[], None], *args: Any) -> None:
        """Begin as uvicorn does; `leave` is called at the end of a connection that has begun."""
        super().__init__(*args)
        self._leave = leave

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        # Of this connection only: its requests get copies.
        self.app_state = {**self.app_state, "certificate_names": _names(transport)}
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Read on; a request's head must be whole in time, however slowly it trickles in."""
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:
            self._set_deadline(None)

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, and hang up.

        The request that it belongs to may be in the hands of the application, or answered already: then that
        gets no more of it, and nobody writes where an answer has been. uvicorn would fault, once for each.
        """
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr] # None at first
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = f"{msg}\n".encode("ascii")
            head = h11.Response(
                status_code=400,
                headers=[
                    *SECURITY_HEADERS,
                    (b"content-type", b"text/plain; charset=utf-8"),
                    (b"content-length", str(len(body)).encode()),
                    (b"connection", b"close"),
                ],
                reason=b"Bad Request",
            )
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it was there already."""
        cycle = self.cycle
        super().on_response_complete()
        if self.cycle is cycle:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline with the connection."""
        self._leave()
        self._set_deadline(None)
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._set_deadline(self.loop.call_later(HEAD_TIMEOUT, self.transport.abort))

    def _set_deadline(self, deadline: asyncio.TimerHandle | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = deadline


def _names(transport: asyncio.Transport) -> frozenset[str]:
    """The DNS names in a client certificate that TLS has verified."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    certificate: Mapping[str, Any] = (tls.getpeercert() if tls else None) or {}
    names: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
    return certificate_names({"peer_dns": [name.encode() for kind, name in names if kind == "DNS"]})
