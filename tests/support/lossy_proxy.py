"""A TCP proxy in front of a gRPC server without TLS, which loses answers after their requests were served."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_FRAME_HEADER = 9
_DATA = 0


class LossyProxy:
    """Passes on what clients send, and answers, but for those that are to be lost.

    An answer that is lost has been made: its first byte has come from the server when both connections are
    cut. The client sees a connection that broke, and does not know what became of its request.
    """

    def __init__(self, target: str, lose: Callable[[int], bool]) -> None:
        """Stand before `target` (`host:port`); `lose` tells of the n-th answer, from 1 on, if it is lost."""
        host, _, port = target.rpartition(":")
        self._lose = lose
        self._counting = threading.Lock()
        self.answers = 0
        """How many the server has made."""
        self.lost = 0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection((host, int(port))) as onward:
                    for each in (self.request, onward):
                        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    back = threading.Thread(target=proxy._answer, args=(onward, self.request), daemon=True)
                    back.start()
                    _copy(self.request, onward)
                    back.join()

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        """Pass on frame by frame (RFC 9113 §4.1); an answer has its message in one DATA frame."""
        with contextlib.suppress(OSError), server.makefile("rb") as frames:
            while header := frames.read(_FRAME_HEADER):
                if header[3] == _DATA and self._is_lost():
                    break
                client.sendall(header + frames.read(int.from_bytes(header[:3], "big")))
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _is_lost(self) -> bool:
        with self._counting:
            self.answers += 1
            lost = self._lose(self.answers)
            self.lost += lost
            return lost

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True  # else closing would wait for connections that clients keep open


def _copy(from_: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := from_.recv(65536):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
