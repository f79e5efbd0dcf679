"""Who is at the other end of a connection: peer addresses, certificate names, trusted proxies."""

from __future__ import annotations

import functools
import ipaddress
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rpz_auth.errors import ConfigurationError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORWARDED_KEY = "x-forwarded-for"
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection. Without an address it is a Unix socket, or could not be read."""

    address: IPAddress | None
    unix: bool = False
    names: frozenset[str] = frozenset()
    """DNS names (SAN) in the client certificate that the transport verified, in lower case."""

    def __str__(self) -> str:
        if self.address is not None:
            return str(self.address)
        return "unix" if self.unix else "unknown"


UNKNOWN = Peer(None)


def parse_address(text: str) -> IPAddress:
    """Read an IP address: zone dropped, IPv4-mapped IPv6 turned into IPv4, nothing else unwrapped.

    Raises:
        ValueError: It is not an IP address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> IPNetwork:
    """Read an IP address or a network in prefix form; IPv4-mapped networks become IPv4.

    Raises:
        ValueError: Neither, with a message that says what is wrong.
    """
    host, slash, prefix = text.partition("/")
    if slash and not (prefix.isascii() and prefix.isdigit()):
        raise ValueError(f"write the length of the network's prefix, as in {host}/24")
    if "%" in text:
        raise ValueError("leave out the zone (what follows %)")
    try:
        network = ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        if "host bits" in str(error):
            mend = ipaddress.ip_network(text, strict=False)
            raise ValueError(f"the address has bits beyond its prefix; did you mean {mend}?") from None
        raise ValueError("not an IP address or network") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:  # noqa: PLR2004 - ::ffff:0:0/96
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def parse_peer(text: str) -> Peer:
    """Read what grpc calls a peer: `ipv4:1.2.3.4:5`, `ipv6:%5B::1%5D:5`, `unix:…`; else `UNKNOWN`."""
    family, _, rest = text.partition(":")
    if family == "unix":
        return Peer(None, unix=True)
    if family not in ("ipv4", "ipv6"):
        return UNKNOWN
    host, colon, port = rest.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        return UNKNOWN
    return _peer_of_host(family, host)


@functools.lru_cache(maxsize=4096)
def _peer_of_host(family: str, host: str) -> Peer:
    if family == "ipv6":
        host = urllib.parse.unquote(host)
        if not (host.startswith("[") and host.endswith("]")):
            return UNKNOWN
        host = host[1:-1]
    try:
        return Peer(parse_address(host))
    except ValueError:
        return UNKNOWN


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """The DNS names in a verified client certificate; its common name is not one of them."""
    if not auth_context:
        return frozenset()
    return frozenset(
        name.decode("ascii").lower().removesuffix(".")
        for name in auth_context.get("peer_dns", ())
        if name.isascii()
    )


class TrustedProxies:
    """The proxies whose `x-forwarded-for` is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Take addresses and networks in prefix form.

        Raises:
            ConfigurationError: One of them is neither.
        """
        parsed = []
        for text in networks:
            try:
                parsed.append(parse_network(text))
            except ValueError as error:
                raise ConfigurationError(f"trusted proxy {text!r}: {error}") from None
        self._networks: Sequence[IPNetwork] = tuple(parsed)

    def resolve(self, peer: Peer, metadata: Iterable[tuple[str, str | bytes]]) -> Peer:
        """The client behind `peer`, if that is a trusted proxy, else `peer` itself.

        Walks `x-forwarded-for` from the right, over trusted proxies, to the first address that is not
        one. A list that cannot be read up to there gives `UNKNOWN`. Names in a proxy's certificate are
        not the client's.
        """
        if not self._networks or not self._trusts(peer.address):
            return peer
        hops = [
            hop
            for key, value in metadata
            if key == _FORWARDED_KEY
            for hop in (value if isinstance(value, str) else "").split(",")
        ]
        for hop in reversed(hops):
            address = _forwarded_address(hop.strip(" "))
            if address is None:
                return UNKNOWN
            if not self._trusts(address):
                return Peer(address)
        return Peer(peer.address)

    def _trusts(self, address: IPAddress | None) -> bool:
        return address is not None and any(
            address.version == network.version and address in network for network in self._networks
        )


def _forwarded_address(hop: str) -> IPAddress | None:
    match = _HOST_AND_PORT.fullmatch(hop)
    try:
        return parse_address((match["v6"] or match["v4"]) if match else hop)
    except ValueError:
        return None
