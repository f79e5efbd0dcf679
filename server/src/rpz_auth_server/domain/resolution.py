"""Names in whitelists, and how long it counts where they lead."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rpz_auth.address import IPAddress, parse_address
from rpz_auth.whitelist import DNS

MAX_NAMES = 100
"""In one App's whitelist."""
MAX_ADDRESSES = 64
"""Of one name."""
SHORTEST = 30.0
"""Seconds; whatever an answer says, it is neither asked for again sooner,"""
LONGEST = 3600.0
"""nor believed for longer, also when nothing better comes."""
CLAIM = 30.0
"""Seconds that a process has for a look-up before another one tries."""
_AHEAD = 0.75
"""After this part of its time an answer is asked for again, so that one that is lost harms nobody."""
_SLOWEST_RETRY = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """Where a name leads. Times are seconds since the epoch, on the database's clock."""

    name: str
    addresses: tuple[str, ...] = ()
    """Of the last good answer, in order; without those that no name may lead to."""
    resolved_at: float | None = None
    """When that was asked for; None before the first good answer."""
    due_at: float
    """When to ask again."""
    failures: int = 0
    """Look-ups since then that came to nothing."""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the DNS says of a name."""

    addresses: tuple[str, ...]
    ttl: float


def names_in(whitelist: Iterable[str]) -> tuple[str, ...]:
    """The names in a whitelist."""
    return tuple(entry.removeprefix(DNS) for entry in whitelist if entry.startswith(DNS))


def claim(name: str, before: Resolution | None, now: float) -> Resolution:
    """Say that this process asks, so that no other one does."""
    if before is None:
        return Resolution(name=name, due_at=now + CLAIM)
    return replace(before, due_at=now + CLAIM, version=before.version + 1)


def accept(claimed: Resolution, answer: Answer, now: float, luck: float) -> Resolution:
    """Take over an answer; one that leads nowhere it may is an answer, too.

    Args:
        claimed: What was known when it was asked for.
        answer: What came.
        now: When it was asked for.
        luck: From 0 to 1, so that names of one time part.
    """
    lifetime = min(max(answer.ttl, SHORTEST), LONGEST)
    return replace(
        claimed,
        addresses=_usable(answer.addresses),
        resolved_at=now,
        due_at=now + max(SHORTEST, lifetime * (_AHEAD + 0.2 * luck)),
        failures=0,
        version=claimed.version + 1,
    )


def fail(claimed: Resolution, now: float, luck: float) -> Resolution:
    """Keep the last good answer, and ask again later; the later, the more often that failed."""
    wait = min(SHORTEST * 2.0 ** min(claimed.failures, 10), _SLOWEST_RETRY)
    return replace(
        claimed,
        due_at=now + wait * (1 + 0.2 * luck),
        failures=claimed.failures + 1,
        version=claimed.version + 1,
    )


def addresses_of(resolutions: Iterable[Resolution], now: float, *, private_allowed: bool) -> tuple[str, ...]:
    """Where names lead now, in order: nowhere if the last good answer is too old.

    Whoever controls a name could else lead it to what the network trusts for standing inside it, so private
    addresses count by leave only.
    """
    found = {
        address
        for resolution in resolutions
        if resolution.resolved_at is not None and now < resolution.resolved_at + LONGEST
        for address in map(parse_address, resolution.addresses)
        if private_allowed or address.is_global
    }
    return tuple(map(str, sorted(found, key=_order)))


def _usable(texts: Iterable[str]) -> tuple[str, ...]:
    """The addresses that a name may lead to at all, the same of the same answer in any order."""
    found = {address for address in map(parse_address, texts) if not _is_never(address)}
    return tuple(map(str, sorted(found, key=_order)[:MAX_ADDRESSES]))


def _is_never(address: IPAddress) -> bool:
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or (isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None)
    )


def _order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)
