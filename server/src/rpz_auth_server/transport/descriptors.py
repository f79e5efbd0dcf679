"""Who may take how many of the file descriptors of a process."""

from __future__ import annotations

import resource

from rpz_auth_server.transport.http.protocol import MAX_CONNECTIONS

WANTED = 65_536
"""More than all that is bounded here takes together."""
_HTTP = 2 * MAX_CONNECTIONS
"""Of the listener for everybody, and that of the console."""
_OTHER_FILES = 256
"""For the database, and for what else a process opens."""


def raise_limit() -> None:
    """Take as many as the system grants; programs begin with 1,024 often, for the sake of old ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    granted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < granted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))


def left_for_grpc(most: int) -> int:
    """How many of `most` connections gRPC may have, so that a flood of them leaves the rest what it needs.

    Where there are too few for all, gRPC has half.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, max(files // 2, files - _HTTP - _OTHER_FILES)))
