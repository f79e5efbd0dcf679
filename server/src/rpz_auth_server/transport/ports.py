"""Ports to listen on, and what an administrator is told of one that cannot be had."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from rpz_auth.errors import ConfigurationError

from rpz_auth_server.setting_values import split_address


def not_to_be_had(address: str, flag: str) -> ConfigurationError:
    """Say that `address` cannot be listened on; `flag` names another."""
    return ConfigurationError(
        f"cannot listen on {address}: another program has the port, or the address is not this machine's; "
        f"stop that program, or choose another with {flag}"
    )


def take(address: str, *, share: bool = False) -> socket.socket:
    """Listen on `host:port`, perhaps beside others who share the port.

    Raises:
        OSError: Somebody else has it, or it is not of this machine.
    """
    host, port = split_address(address)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, place = found[0]
    everywhere = family == socket.AF_INET6 and place[0] == "::"
    return socket.create_server(place[:2], family=family, dualstack_ipv6=everywhere, reuse_port=share)


def refuse_taken(addresses: Mapping[str, str]) -> None:
    """See that nobody else has a port, before anything is made that would keep its number for good.

    Args:
        addresses: `host:port` by the flag that names it.

    Raises:
        ConfigurationError: Somebody has one.
    """
    for flag, address in addresses.items():
        try:
            take(address).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:  # of other errors, whoever listens for good knows better
                raise not_to_be_had(address, flag) from None
