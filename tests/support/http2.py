"""A client that sends what no gRPC library would: raw HTTP/2, header by header."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events

RawHeaders = tuple[tuple[bytes, bytes], ...]

EMPTY_MESSAGE = bytes(5)
"""A gRPC message of no bytes: not compressed, length 0."""


class RawClient:
    """One connection; nothing that is sent over it is checked."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._connection = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._fields: dict[int, dict[bytes, bytes]] = {}
        self._ended: set[int] = set()
        self._connection.initiate_connection()
        self._flush()

    def open(self, path: str, extra: RawHeaders = (), *, before: RawHeaders = ()) -> int:
        """Send the headers of a call, and no message; gives the stream.

        Args:
            path: Of the method.
            extra: Behind the usual headers.
            before: In front of the usual headers.
        """
        stream = self._connection.get_next_available_stream_id()
        headers = [
            *before,
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"127.0.0.1"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *extra,
        ]
        self._fields[stream] = {}
        self._connection.send_headers(stream, headers)
        self._flush()
        return stream

    def send_empty_message(self, stream: int) -> None:
        """Send the only message of a call."""
        self._connection.send_data(stream, EMPTY_MESSAGE, end_stream=True)
        self._flush()

    def status(self, stream: int) -> int | None:
        """Wait for the end of a call; gives its gRPC status, or None when the stream was reset."""
        while stream not in self._ended:
            received = self._socket.recv(65536)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            for event in self._connection.receive_data(received):
                self._note(event)
            self._flush()
        status = self._fields[stream].get(b"grpc-status")
        return None if status is None else int(status)

    def close(self) -> None:
        self._socket.close()

    def _note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self._fields[event.stream_id].update((bytes(k), bytes(v)) for k, v in event.headers)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                self._ended.add(event.stream_id)

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())


@contextlib.contextmanager
def raw_client(port: int) -> Iterator[RawClient]:
    client = RawClient(port)
    try:
        yield client
    finally:
        client.close()
