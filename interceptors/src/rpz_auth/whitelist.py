"""From where an App may call.

An entry says something of the *peer* or of the *origin*. If a list has entries about peers, one of them must
match; if it has entries about origins, one of those must match too. An origin never stands in for a peer: a
browser cannot choose it, but any other program can.
"""

from __future__ import annotations

import bisect
import contextlib
import ipaddress
import re
from collections.abc import Iterable

from rpz_auth.address import LAST_PORT, IPAddress, Peer, parse_network
from rpz_auth.errors import OriginNotAllowed

MAX_ENTRIES = 1000

SAN = "san:"
"""Begins a name in the client's certificate."""
DNS = "dns:"
"""Begins a host name that the authority resolves. It hands out what it found as networks beside it, so that
nobody who checks a call ever asks the DNS; by itself such an entry matches nobody."""
ORIGIN = "origin:"
"""Begins the origin of a page in a browser."""
_UNIX = "unix"
_KINDS = "an address, a network such as 192.0.2.0/24, san:name, dns:name, or origin:https://name"
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII)


def normalise(entry: str, *, allow_any: bool = False) -> str:
    """Check one entry that a person typed and write it in the one way that it is stored.

    Entries are IP addresses, networks in prefix form, `san:` with a name in the client's certificate,
    `dns:` with a host name, `origin:` with scheme, host and port of a page, or `unix`. A network of all
    addresses is taken only with `allow_any`. Names outside ASCII are taken as A-labels (RFC 5890) only.

    Raises:
        ValueError: With a message that tells the person what to type instead.
    """
    if entry == _UNIX:
        return entry
    for kind in (SAN, DNS):
        if entry.startswith(kind):
            return kind + _read_name(kind, entry)
    if entry.startswith(ORIGIN):
        return ORIGIN + _read_origin(entry.removeprefix(ORIGIN))
    if entry != entry.strip():
        raise ValueError("leave out the spaces")
    try:
        network = parse_network(entry)
    except ValueError as error:
        raise ValueError(f"{error} (write {_KINDS})") from None
    if network.prefixlen == 0 and not allow_any:
        raise ValueError("this network is every address; say so explicitly, or leave the whitelist empty")
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


class Whitelist:
    """A compiled whitelist; an App with an empty one may call from anywhere."""

    __slots__ = ("_names", "_origins", "_ranges", "_restricted", "_unix")

    def __init__(self, entries: Iterable[str]) -> None:
        """Compile stored entries. One that this version cannot read matches nobody."""
        ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        names: set[str] = set()
        origins: set[str] | None = None
        self._restricted = False
        self._unix = False
        for entry in entries:
            if entry.startswith(ORIGIN):
                origins = origins or set()
                with contextlib.suppress(ValueError):
                    origins.add(_read_origin(entry.removeprefix(ORIGIN)))
                continue
            self._restricted = True
            if entry == _UNIX:
                self._unix = True
                continue
            try:
                if entry.startswith(SAN):
                    names.add(_read_name(SAN, entry))
                    continue
                network = parse_network(entry)
            except ValueError:
                continue
            ranges[network.version].append((int(network.network_address), int(network.broadcast_address)))
        self._names = frozenset(names)
        self._origins = None if origins is None else frozenset(origins)
        self._ranges = {version: _merge(pairs) for version, pairs in ranges.items()}

    def check(self, peer: Peer) -> None:
        """Let a peer pass that an entry matches, showing a page that an entry matches.

        Raises:
            OriginNotAllowed: There are entries about peers and none matches, or about origins and none does.
        """
        if self._origins is not None:
            self.check_origin(peer.origin)
        if not self._restricted:
            return
        if peer.address is not None and self._holds(peer.address):
            return
        if self._names and not self._names.isdisjoint(peer.names):
            return
        if self._unix and peer.unix:
            return
        raise OriginNotAllowed

    def check_origin(self, origin: str | None) -> None:
        """Let a page pass that an entry matches; None is a caller that names none.

        Raises:
            OriginNotAllowed: There are entries about origins, and none matches.
        """
        if self._origins is None or origin in self._origins:
            return
        with contextlib.suppress(ValueError):
            if origin is not None and _read_origin(origin) in self._origins:
                return
        raise OriginNotAllowed

    def _holds(self, address: IPAddress) -> bool:
        starts, ends = self._ranges[address.version]
        number = int(address)
        index = bisect.bisect_right(starts, number) - 1
        return index >= 0 and number <= ends[index]


def _read_name(kind: str, entry: str) -> str:
    name = _host_name(entry.removeprefix(kind))
    if name is None or (kind == DNS and _is_number(name)):
        raise ValueError(
            f"write the exact host name after {kind}, without wildcards, as in {kind}api.example.com"
        )
    return name


def _host_name(text: str) -> str | None:
    # Before lower(), which turns the Kelvin sign into a k.
    name = text.lower().removesuffix(".") if text.isascii() else ""
    return name if _HOST_NAME.fullmatch(name) else None


def _is_number(name: str) -> bool:
    """Whether browsers and resolvers take a host for an IPv4 address (WHATWG URL, "ends in a number")."""
    last = name.rpartition(".")[2]
    return last.isdigit() or last.startswith("0x")


def _read_origin(text: str) -> str:
    """Write an origin as browsers do (RFC 6454 §6.2): in lower case, without the port of its scheme."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(
            "write scheme, host and, if need be, port of the page after origin:, without a path, as in "
            "origin:https://shop.example.com"
        )
    scheme, port = match["scheme"].lower(), match["port"]
    host, is_loopback = _origin_host(match["host"])
    if scheme == "http" and not is_loopback:
        raise ValueError("write https; http is for pages on localhost, 127.0.0.1 or [::1] only")
    if port is not None and not 0 < int(port) <= LAST_PORT:
        raise ValueError(f"a port is a number up to {LAST_PORT}")
    implied = port is None or int(port) == _PORTS[scheme]
    return f"{scheme}://{host}" if implied else f"{scheme}://{host}:{int(port)}"


def _origin_host(text: str) -> tuple[str, bool]:
    """A host as browsers write it, and whether it is this machine."""
    name = _host_name(text)
    if name is not None and not _is_number(name):
        return name, name == "localhost"
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError("the host of an origin is an exact host name or an IP address") from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address), address.is_loopback
    return f"[{address}]", address.is_loopback


def _merge(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    starts: list[int] = []
    ends: list[int] = []
    for start, end in sorted(pairs):
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return starts, ends
