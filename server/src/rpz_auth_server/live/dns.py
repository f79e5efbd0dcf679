"""Asks the DNS where a name leads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import dns.asyncresolver
import dns.exception
import dns.nameserver

from rpz_auth_server.domain.resolution import Answer

_LIFETIME = 10.0
_TIMEOUT = 3.0
_PAYLOAD = 1232
"""Bytes of an answer over UDP (DNS flag day 2020): more would come in fragments, which can be forged."""


class ResolutionError(Exception):
    """No answer, or one that leads nowhere."""


class Dns:
    """A resolver that neither caches nor takes names for local ones."""

    def __init__(
        self,
        servers: Sequence[tuple[str, int]] = (),
        *,
        timeout: float = _TIMEOUT,
        lifetime: float = _LIFETIME,
    ) -> None:
        """Ask these servers, or those of the system if none are named.

        Args:
            servers: IP address and port of each; they must do recursion.
            timeout: In seconds, of one question to one server.
            lifetime: In seconds, of a whole look-up.

        """
        self._servers = servers
        self._timeout = timeout
        self._lifetime = lifetime

    async def ask(self, name: str) -> Answer:
        """Ask for all addresses of a name, of both families.

        One that fails fails both: half an answer would shut out hosts of the other half at once.

        Raises:
            ResolutionError: There is no answer, or no address.
        """
        try:
            resolver = self._resolver()
            found = await asyncio.gather(*(_ask(resolver, name, kind) for kind in ("A", "AAAA")))
        except (dns.exception.DNSException, OSError, ValueError) as error:
            raise ResolutionError(type(error).__name__) from error
        answers = [answer for answer in found if answer is not None]
        if not answers:
            raise ResolutionError("NoAnswer")
        return Answer(
            addresses=tuple(address for answer in answers for address in answer.addresses),
            ttl=min(answer.ttl for answer in answers),
        )

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """Made for each look-up, since the system's servers may change while this process runs."""
        resolver = dns.asyncresolver.Resolver(configure=not self._servers)
        if self._servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in self._servers]
        resolver.timeout = self._timeout
        resolver.lifetime = self._lifetime
        resolver.use_edns(0, 0, _PAYLOAD)
        return resolver


async def _ask(resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> Answer | None:
    answer = await resolver.resolve(f"{name}.", kind, search=False, raise_on_no_answer=False)
    if answer.rrset is None:
        return None
    addresses = tuple(str(record.address) for record in answer.rrset)
    # The least on the way: an alias may change before what it leads to.
    return Answer(addresses=addresses, ttl=float(answer.chaining_result.minimum_ttl))
