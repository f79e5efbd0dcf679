"""From where an App may call."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable

from rpz_auth.address import IPAddress, Peer, parse_network
from rpz_auth.errors import OriginNotAllowed

MAX_ENTRIES = 1000

_SAN = "san:"
_UNIX = "unix"
_HOST_NAME = re.compile(r"(?=.{1,253}$)(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII)


def normalise(entry: str, *, allow_any: bool = False) -> str:
    """Check one entry that a person typed and write it in the one way that it is stored.

    Entries are IP addresses, networks in prefix form, `san:` with a name in the client's certificate,
    or `unix`. A network of all addresses is taken only with `allow_any`.

    Raises:
        ValueError: With a message that tells the person what to type instead.
    """
    if entry == _UNIX:
        return entry
    if entry.startswith(_SAN):
        return _SAN + _read_name(entry)
    if entry != entry.strip():
        raise ValueError("leave out the spaces")
    try:
        network = parse_network(entry)
    except ValueError as error:
        raise ValueError(f"{error} (write an address, a network such as 192.0.2.0/24, or san:name)") from None
    if network.prefixlen == 0 and not allow_any:
        raise ValueError("this network is every address; say so explicitly, or leave the whitelist empty")
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


class Whitelist:
    """A compiled whitelist; an App with an empty one may call from anywhere."""

    __slots__ = ("_names", "_ranges", "_restricted", "_unix")

    def __init__(self, entries: Iterable[str]) -> None:
        """Compile stored entries. One that this version cannot read matches nobody."""
        ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        names: set[str] = set()
        self._restricted = False
        self._unix = False
        for entry in entries:
            self._restricted = True
            if entry == _UNIX:
                self._unix = True
                continue
            try:
                if entry.startswith(_SAN):
                    names.add(_read_name(entry))
                    continue
                network = parse_network(entry)
            except ValueError:
                continue
            ranges[network.version].append((int(network.network_address), int(network.broadcast_address)))
        self._names = frozenset(names)
        self._ranges = {version: _merge(pairs) for version, pairs in ranges.items()}

    def check(self, peer: Peer) -> None:
        """Let a peer pass that one entry matches.

        Raises:
            OriginNotAllowed: There are entries, and none matches.
        """
        if not self._restricted:
            return
        if peer.address is not None and self._holds(peer.address):
            return
        if self._names and not self._names.isdisjoint(peer.names):
            return
        if self._unix and peer.unix:
            return
        raise OriginNotAllowed

    def _holds(self, address: IPAddress) -> bool:
        starts, ends = self._ranges[address.version]
        number = int(address)
        index = bisect.bisect_right(starts, number) - 1
        return index >= 0 and number <= ends[index]


def _read_name(entry: str) -> str:
    text = entry.removeprefix(_SAN)
    # Before lower(), which turns the Kelvin sign into a k.
    name = text.lower().removesuffix(".") if text.isascii() else ""
    if not _HOST_NAME.fullmatch(name):
        raise ValueError("write the exact host name after san:, without wildcards, as in san:api.example.com")
    return name


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
