"""Who is at the other end of a connection: peer addresses, certificate names, trusted proxies."""

from __future__ import annotations

import functools
import ipaddress
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rpz_auth.errors import ConfigurationError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORWARDED_KEY = "x-forwarded-for"
_ORIGIN_KEY = "origin"
LAST_PORT = 65_535
_PORT = re.compile(r"[0-9]{1,5}")
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|(?P<v4>[0-9.]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection. Without an address it is a Unix socket, or could not be read."""

    address: IPAddress | None
    unix: bool = False
    names: frozenset[str] = frozenset()
    """DNS names (SAN) in the client certificate that the transport verified, in lower case."""
    origin: str | None = None
    """The page that a browser says it shows (RFC 6454 §7), as received. Other programs can claim any."""
    _text: str = field(init=False, repr=False, compare=False)
    """Written once for all calls of an address, whose peer is one object."""

    def __post_init__(self) -> None:
        named = "unix" if self.unix else "unknown"
        object.__setattr__(self, "_text", named if self.address is None else str(self.address))

    def __str__(self) -> str:
        return self._text


UNKNOWN = Peer(None)


def parse_address(text: str) -> IPAddress:
    """Read an IP address: zone dropped, IPv4-mapped IPv6 turned into IPv4, nothing else unwrapped.

    Raises:
        ValueError: It is not an IP address.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))


def parse_network(text: str) -> IPNetwork:
    """Read an IP address or a network in prefix form; IPv4-mapped networks become IPv4.

    Raises:
        ValueError: Neither, with a message that says what is wrong.
    """
    _, slash, prefix = text.partition("/")
    if slash and not (prefix.isascii() and prefix.isdigit()):
        raise ValueError("write the number of the network's leading bits behind the slash")
    if "%" in text:
        raise ValueError("leave out the zone (what follows %)")
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError("not an IP address or network") from None
    network: IPNetwork = interface.network
    if interface.ip != network.network_address:
        raise ValueError(f"the address has bits beyond its prefix; did you mean {network}?")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:  # noqa: PLR2004 - ::ffff:0:0/96
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


@functools.lru_cache(maxsize=4096)
def parse_peer(text: str) -> Peer:
    """Read what grpc calls a peer: `ipv4:1.2.3.4:5`, `ipv6:%5B::1%5D:5`, `unix:…`; else `UNKNOWN`."""
    family, colon, rest = text.partition(":")
    if family == "unix" and colon:
        return Peer(None, unix=True)
    host, _, port = rest.rpartition(":")
    if not _PORT.fullmatch(port) or not 0 < int(port) <= LAST_PORT:
        return UNKNOWN
    return _peer_of_host(family, host)


@functools.lru_cache(maxsize=4096)
def _peer_of_host(family: str, host: str) -> Peer:
    if family == "ipv6":
        host = urllib.parse.unquote(host)
        if not (host.startswith("[") and host.endswith("]") and ":" in host):
            return UNKNOWN
        host = host[1:-1]
    elif family != "ipv4" or ":" in host:
        return UNKNOWN
    try:
        address = parse_address(host)
    except ValueError:
        return UNKNOWN
    # Nobody calls from the address that stands for all.
    return UNKNOWN if address.is_unspecified else Peer(address)


def with_origin(peer: Peer, metadata: Iterable[tuple[str, str | bytes]]) -> Peer:
    """The peer with the `origin` that its metadata names; two of them are none that can be listed."""
    origins = [value for key, value in metadata if key == _ORIGIN_KEY]
    if not origins:
        return peer
    origin = origins[0] if len(origins) == 1 else ""
    return replace(peer, origin=origin if isinstance(origin, str) else "")


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
        one. Without such an address, or with a list that cannot be read up to there, the client is
        `UNKNOWN`: grpc shows only the last of several `x-forwarded-for` lines, and a client can make
        some proxies drop the field (RFC 9110 §7.6.1), so the proxy must not pass for its client. Names in
        a proxy's certificate are not the client's.
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
        return UNKNOWN

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
