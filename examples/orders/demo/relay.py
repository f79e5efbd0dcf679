"""A way to a service that begins at another address of this machine."""

from __future__ import annotations

import socket
import socketserver
import threading
from types import TracebackType
from typing import Self

_CHUNK = 65536


class Relay:
    """Passes TCP connections on from `source`, so that this is the peer that the other end sees."""

    def __init__(self, target: str, *, source: str) -> None:
        """Pass on to `target` (`host:port`); `source` is an IP address of this machine."""
        host, _, port = target.rpartition(":")

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection((host, int(port)), source_address=(source, 0)) as onward:
                    back = threading.Thread(target=_copy, args=(onward, self.request), daemon=True)
                    back.start()
                    _copy(self.request, onward)
                    back.join()

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True  # else closing would wait for connections that clients keep open


def _copy(from_: socket.socket, to: socket.socket) -> None:
    try:
        while data := from_.recv(_CHUNK):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one end is gone, and with it the connection
