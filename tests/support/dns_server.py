"""A small DNS server on loopback that answers as the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class DnsServer:
    """What it says of each name; a name that it does not know, does not exist."""

    port: int = 0
    addresses: dict[str, Sequence[str]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Names that it never answers for."""
    failing: set[str] = field(default_factory=set)
    """Names that it answers SERVFAIL for."""
    ttl: int = 30
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Names and types, in their order."""

    def answer(self, wire: bytes) -> bytes | None:
        """Answer a question; None for silence."""
        query = dns.message.from_wire(wire)
        (question,) = query.question
        name, kind = question.name.to_text(omit_final_dot=True), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        if name in self.silent:
            return None
        reply = dns.message.make_response(query, recursion_available=True)
        if name in self.failing:
            reply.set_rcode(dns.rcode.SERVFAIL)
            return reply.to_wire()
        while name in self.aliases and len(reply.answer) < 32:
            reply.answer.append(
                dns.rrset.from_text(f"{name}.", 3600, "IN", "CNAME", f"{self.aliases[name]}.")
            )
            name = self.aliases[name]
        if name not in self.addresses:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        found = [text for text in self.addresses.get(name, ()) if (":" in text) is (kind == "AAAA")]
        if found:
            reply.answer.append(dns.rrset.from_text_list(f"{name}.", self.ttl, "IN", kind, found))
        return reply.to_wire(max_size=65535)


class _Protocol(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = self._server.answer(data)
        if reply is not None:
            self._transport.sendto(reply, addr)


@contextlib.asynccontextmanager
async def running_dns() -> AsyncIterator[DnsServer]:
    """Answer over UDP until the block ends."""
    server = DnsServer()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Protocol(server), local_addr=("127.0.0.1", 0))
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        transport.close()
