"""The HTTP side of the authority: listeners in the event loop that serves gRPC, too."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from rpz_auth.errors import ConfigurationError
from starlette.types import ASGIApp

from rpz_auth_server.settings import split_address
from rpz_auth_server.transport.http.protocol import Protocol

HANDSHAKE_TIMEOUT = 10.0
"""Seconds; asyncio would wait for a minute."""
_DRAIN = 10
_KEEP_ALIVE = 10
_MAX_HEAD = 32 * 1024
"""Bytes. A credential has 8 KiB at most, and cookies and a long `state` come beside it."""


class HttpServer:
    """One application on any number of addresses."""

    def __init__(self, app: ASGIApp) -> None:
        """Serve `app`; nothing listens yet."""
        self._app = app
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
        host, port = split_address(address)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, place = found[0]
            everywhere = family == socket.AF_INET6 and place[0] == "::"
            taken = socket.create_server(
                place[:2], family=family, dualstack_ipv6=everywhere, reuse_port=share_port
            )
        except OSError:
            raise ConfigurationError(
                f"cannot listen on {address}: another program has the port, or the address is not this "
                f"machine's; stop that program, or choose another with {flag}"
            ) from None
        self._listeners.append((_Listener(self._app, context), taken))
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

    def __init__(self, app: ASGIApp, context: ssl.SSLContext | None) -> None:
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

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, as uvicorn does but for the time that a handshake may take, and say when it is done."""

        def begin() -> asyncio.Protocol:
            return Protocol(self.config, self.server_state, self.lifespan.state)

        loop = asyncio.get_running_loop()
        timeout = None if self.config.ssl is None else HANDSHAKE_TIMEOUT
        self.servers = [
            await loop.create_server(begin, sock=taken, ssl=self.config.ssl, ssl_handshake_timeout=timeout)
            for taken in sockets or ()
        ]
        self.started = True
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the program."""
        yield
