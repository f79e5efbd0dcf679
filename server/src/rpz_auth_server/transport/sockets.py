"""The sockets that grpc holds and does not show: which listen on a port, which are its connections.

Found where Linux lists what a process has open. Elsewhere nothing is found, and a worker that leaves does so
the quick way.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

_OPEN = Path("/proc/self/fd")


def stop_listening(port: int) -> None:
    """Take no new connection on a port of this process; what is connected stays."""
    for held in _sockets(port):
        if _listens(held):
            held.shutdown(socket.SHUT_RDWR)


def count_connections(port: int) -> int:
    """Count the connections that were accepted on a port and are still open."""
    return sum(not _listens(held) for held in _sockets(port))


def _listens(held: socket.socket) -> bool:
    return bool(held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _sockets(port: int) -> Iterator[socket.socket]:
    for entry in _OPEN.iterdir() if _OPEN.is_dir() else ():
        try:
            number = int(entry.name)
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            copy = os.dup(number)
        except OSError:  # closed meanwhile
            continue
        with socket.socket(fileno=copy) as held:
            if held.family in {socket.AF_INET, socket.AF_INET6} and held.getsockname()[1] == port:
                yield held
