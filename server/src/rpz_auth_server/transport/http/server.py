"""The HTTP side of the authority: listeners in the event loop that serves gRPC, too."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from rpz_auth_server.transport import ports, sockets
from rpz_auth_server.transport.http.acceptor import Acceptor
from rpz_auth_server.transport.http.protocol import Peers, Protocol

HANDSHAKE_TIMEOUT = 5.0
"""Seconds; asyncio would wait for a minute."""
_FAREWELL_TIMEOUT = 1.0
"""Seconds to wait for the end of TLS from a client that keeps its connection, unread, for the next request:
half a minute by default, for which whoever stops would wait with it."""
_DRAIN = 10
_KEEP_ALIVE = 10
_LEAVE = 30.0
"""Seconds for idle connections to end by themselves, which takes ten, and for the slowest requests."""
_MAX_HEAD = 32 * 1024
"""Bytes. A credential has 8 KiB at most, and cookies and a long `state` come beside it."""


class HttpServer:
    """One application on any number of addresses."""

    def __init__(self, app: ASGIApp, *, trusted_proxies: Sequence[str] = ()) -> None:
        """Serve `app`; nothing listens yet.

        Args:
            app: The application.
            trusted_proxies: Addresses and networks whose connections are many clients'.
        """
        self._app = app
        self._trusted_proxies = trusted_proxies
        self._listeners: list[tuple[_Listener, socket.socket]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def listen(
        self,
        address: str,
        context: ssl.SSLContext | None,
        *,
        flag: str = "--http-address",
        share_port: bool = False,
    ) -> int:
        """Take a port, without TLS when there is no context; return its number.

        Args:
            address: `host:port` as in the settings.
            context: With the certificate.
            flag: By which an administrator names another address.
            share_port: With other workers.

        Raises:
            ConfigurationError: It is taken.
        """
        try:
            taken = ports.take(address, share=share_port)
        except OSError:
            raise ports.not_to_be_had(address, flag) from None
        self._listeners.append((_Listener(self._app, context, Peers(self._trusted_proxies)), taken))
        return int(taken.getsockname()[1])

    async def start(self) -> None:
        """Serve."""
        for listener, taken in self._listeners:
            serving = asyncio.create_task(listener.serve([taken]))
            self._tasks.append(serving)
            started = asyncio.create_task(listener.ready.wait())
            await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                started.cancel()
                serving.result()

    async def leave(self, hurry: asyncio.Event) -> None:
        """Serve those who are connected until each has gone elsewhere, but take nobody new.

        Whoever closes an idle connection may cross with the next request on it. So each is asked to go with
        its next answer (`Connection: close`), and those that ask nothing end by their usual time. `hurry`
        ends the wait.
        """
        numbers = [taken.getsockname()[1] for _, taken in self._listeners]
        for listener, _ in self._listeners:
            listener.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE):
                while any(map(sockets.count_connections, numbers)) and not hurry.is_set():  # noqa: ASYNC110 - as for gRPC
                    await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Take no more connections, let the requests in flight finish."""
        for listener, taken in self._listeners:
            listener.should_exit = True
            if not self._tasks:
                taken.close()
        await asyncio.gather(*self._tasks)
        self._tasks.clear()
        self._listeners.clear()


class _Listener(uvicorn.Server):
    """Uvicorn without what it does for a process of its own: signals, logs, believing proxies."""

    def __init__(self, app: ASGIApp, context: ssl.SSLContext | None, peers: Peers) -> None:
        self._peers = peers
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                log_level="error",  # what it warns of is what hostile clients send, as often as they like
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_DRAIN,
                h11_max_incomplete_event_size=_MAX_HEAD,
                ssl_context_factory=None if context is None else lambda _config, _default: context,
            )
        )
        self.ready = asyncio.Event()
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say when it is done."""
        self._acceptors = [Acceptor(taken, self._serve_one) for taken in sockets or ()]
        self.servers = []  # of asyncio, which would count nobody before the handshake
        self.started = True
        self.ready.set()

    def leave(self) -> None:
        """Take no new connection, and ask those that are there to go with their next answer."""
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)  # from which uvicorn makes the other once a second
        self.server_state.default_headers.append(close)
        for acceptor in self._acceptors:
            while acceptor.take():  # those whom the kernel has accepted would be reset with the socket
                pass
            acceptor.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and let the requests in flight finish."""
        for acceptor in self._acceptors:
            acceptor.close()
        await super().shutdown(sockets)
        for acceptor in self._acceptors:
            await acceptor.abandon()

    async def _serve_one(self, accepted: socket.socket, address: Any) -> None:
        """Count a connection, and let it begin when its handshake is done."""
        name = self._peers.enter(address)
        if name is None:
            accepted.close()
            return
        leave = functools.partial(self._peers.leave, name)
        protocol = Protocol(leave, self.config, self.server_state, self.lifespan.state)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, accepted, **self._tls)
        except OSError:  # it was closed, or its handshake failed
            pass
        finally:
            if protocol.transport is None:  # it has not begun, and will not
                leave()

    @property
    def _tls(self) -> dict[str, Any]:
        if self.config.ssl is None:
            return {}
        return {
            "ssl": self.config.ssl,
            "ssl_handshake_timeout": HANDSHAKE_TIMEOUT,
            "ssl_shutdown_timeout": _FAREWELL_TIMEOUT,
        }

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the program."""
        yield
