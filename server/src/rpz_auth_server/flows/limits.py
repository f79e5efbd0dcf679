"""What may be tried how often: guessing, renewing, verifying, revoking, changing.

A credential that this authority made is no guess, and its maker can tell without the database. So
guesses are limited per App and peer, per peer and per App, and none of these limits holds up anybody who
presents a genuine credential: whoever floods an App with guesses locks nobody out of it. What is
genuine and yet refused (revoked, expired, another App's) is slowed down by itself.

Nothing here asks the database or waits. Other processes learn of what is charged here, and the other way
round, by what `live.limiter` carries between them.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from rpz_auth.address import Peer
from rpz_auth.errors import OriginNotAllowed, Reason, Refusal, TokenInvalid

from rpz_auth_server.crypto.handles import KeyUnknown
from rpz_auth_server.domain.limits import Charge, Level, Limit, Limits, SharedLevel, charge
from rpz_auth_server.domain.refusal import (
    ApiTokenInvalid,
    ClientInvalid,
    GrantInvalid,
    RateLimited,
    RightsInsufficient,
    TooManyGuesses,
)
from rpz_auth_server.flows.refusal_counts import RefusalCounts
from rpz_auth_server.flows.turns import Turns

_KEPT = 65_536
"""Levels and successes that are remembered; the least recently used go first."""
_SPARED = 8
"""Levels that are passed over for one that is forgotten."""
_LONGEST_NAME = 64
SLOW_AT_ONCE = 8
"""Slow checks of one peer: others wait behind these for their turn, and so for a second at most."""
_SUSPICIOUS = frozenset({"guess", "peer", "app", "misuse", "genuine"})
_TOLD_FROM = 0.25
"""The part of its allowance from which on a level concerns other processes; what is less would fill the
database with traffic."""
_FAILURES = (ClientInvalid, GrantInvalid, TokenInvalid, OriginNotAllowed)


@dataclass(slots=True)
class _Entry:
    level: Level
    untold: float = 0.0
    """Charged here, and not known to other processes."""


@dataclass(frozen=True, slots=True)
class _Hold:
    """What is in the way of a call."""

    kind: str
    wait: float


@dataclass(slots=True)
class _Guard:
    """Stands around one authentication; a class, since a generator would cost more than the limits do."""

    limiter: Limiter
    name: str
    prefix: str
    pair: str
    keys: Sequence[str]
    held: _Hold | None
    charged: bool
    """Whether it was charged before its outcome is known."""

    def __enter__(self) -> None:
        if self.charged:
            self.limiter.slow[self.prefix] += 1

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self.charged:
            self.limiter.slow[self.prefix] -= 1
            if not self.limiter.slow[self.prefix]:
                del self.limiter.slow[self.prefix]
        if error is None:
            if self.charged:
                self.limiter.refund(self.keys)
            self.limiter.succeeded(self.pair)
        elif isinstance(error, Refusal):
            self.limiter.failed(error, self.name, () if self.charged else self.keys, self.held)


class Limiter:
    """Counts in memory, in a bounded space; of one event loop."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        """Apply `limits`; `now` is the database's time."""
        self._limits = limits.by_kind()
        self._now = now
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._untold: dict[str, None] = {}
        self._right: OrderedDict[str, None] = OrderedDict()
        self.refusals = RefusalCounts(now)
        self.slow: Counter[str] = Counter()
        """How many slow checks each peer waits for."""
        self._turns = Turns()
        self.held_up: dict[str, int] = dict.fromkeys(self._limits, 0)
        """How many calls each kind of limit has refused in this process."""

    def guarded(self, name: str, peer: Peer, *, genuine: Sequence[str] = (), slow: bool = False) -> _Guard:
        """Stand around an authentication; its failure is charged.

        Args:
            name: Whom the peer says that it is: an App ID, or whatever else is guessed at.
            peer: The client's end of the connection, or the client behind a trusted proxy.
            genuine: The ids of the credentials that it presents, if this authority made all of them;
                none for a guess.
            slow: The check takes so long that others begin meanwhile: it is charged at once, what was charged
                is given back when it succeeds, and one peer waits for so many only.

        Raises:
            RateLimited: Too many failures; nothing was asked.
        """
        name = _plain(name)
        prefix = prefix_of(peer)
        pair = f"{name} {prefix}"
        guesses = [f"guess {pair}", f"peer {prefix}"]
        keys = [f"genuine {identifier} {pair}" for identifier in genuine]
        if pair not in self._right:
            guesses.append(f"app {name}")
            # Else whoever has one could ask about any number of Apps, which it is not of.
            keys += [f"peer {identifier} {prefix}" for identifier in genuine]
        held = self._held(guesses)
        keys = keys or guesses
        self._refuse(self._held(keys) if genuine else held, name)
        if slow:
            if self.slow[prefix] >= SLOW_AT_ONCE:
                self.refusals.record(Reason.RATE_LIMITED, name)
                raise RateLimited(retry_after=1.0)
            self._charge(keys)
        return _Guard(self, name, prefix, pair, keys, held, slow)

    def succeeded(self, pair: str) -> None:
        """Take it that a peer was right about an App."""
        self._right[pair] = None
        self._right.move_to_end(pair)
        if len(self._right) > _KEPT:
            self._right.popitem(last=False)

    def refund(self, keys: Iterable[str]) -> None:
        """Take back what was charged for checks that have succeeded."""
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                entry.level = Level(max(0.0, entry.level.charged - 1), entry.level.at)
                entry.untold = max(0.0, entry.untold - 1)

    def failed(self, refusal: Refusal, name: str, keys: Sequence[str], held: _Hold | None) -> None:
        """Charge a failure, if it is one.

        Raises:
            RateLimited: Its peer was held up, if what it presents were a guess.
        """
        if isinstance(refusal, _FAILURES):
            self._charge(keys)
            # One answer to all who are held up: what was a credential once is not told from a guess.
            self._refuse(held, name)
        self.refusals.record(refusal.reason, name)

    @contextlib.contextmanager
    def guarded_against_misuse(self, app_id: str, name: str) -> Iterator[None]:
        """Stand around what an authenticated App asks for in the name of another.

        Charged for each name by itself: a service that passes on what strangers send it is not held up for
        everybody else.

        Raises:
            RateLimited: It asked too often for what it may not; nothing was looked up.
        """
        keys = [f"misuse {app_id} {_plain(name)}"]
        self._refuse(self._held(keys))  # counted where callers are known
        try:
            yield
        except RightsInsufficient:
            self._charge(keys)
            raise

    def check_use(self, grant_id: str) -> None:
        """Find out, before anything is asked, whether a grant is used too often; whoever asks is not charged.

        Raises:
            RateLimited: It is; the grant is unharmed.
        """
        self._refuse(self._held([f"grant {grant_id}"]))

    def take_use(self, grant_id: str) -> None:
        """Let one use of a grant's code or refresh token pass; to be called for the grant's own App only.

        Raises:
            RateLimited: It was used too often; the grant is unharmed.
        """
        self._take(f"grant {grant_id}")

    def take_verification(self, app_id: str) -> None:
        """Let one question of a verifier pass.

        Raises:
            RateLimited: It asks too much.
        """
        self._take(f"verifier {app_id}")

    def take_revocation(self, app_id: str) -> None:
        """Let an App revoke one of its access tokens, which every verifier will remember.

        Raises:
            RateLimited: It revoked too many; nothing was written.
        """
        self._take(
            f"revocation {app_id}",
            "too many access tokens were revoked lately (the setting revocation_limit); wait a little",
            name=app_id,
        )

    def take_change(self, subject: str) -> None:
        """Let a caller make or change something that verifiers learn of, or that stays.

        Raises:
            RateLimited: It made or changed too much; nothing was written.
        """
        self._take(
            f"change {subject}",
            "too much was made or changed lately (the setting change_limit); wait a little",
        )

    def take_push(self, app_id: str, peer: Peer) -> None:
        """Let a peer push an authorization request for an App that has no secret, as anybody may.

        Raises:
            RateLimited: It pushed too many; others may go on.
        """
        self._take(f"push {app_id} {prefix_of(peer)}")

    async def hold_back(self, refusal: Refusal, peer: Peer) -> None:
        """Let a guesser wait for the answer; to be awaited before a refusal is answered."""
        if isinstance(refusal, TokenInvalid | KeyUnknown) and not isinstance(refusal, ApiTokenInvalid):
            keys = [f"peer {prefix_of(peer)}"]
            flooding = self._held(keys) is not None
            if not flooding:
                self._charge(keys)
        else:
            flooding = isinstance(refusal, TooManyGuesses)
        if flooding:
            await self._turns.wait(refusal)

    def untold(self, *, limit: int) -> Sequence[Charge]:
        """Hand over up to `limit` charges that other processes should know of."""
        charges = []
        for key in list(self._untold)[:limit]:
            del self._untold[key]
            entry = self._entries.get(key)
            if entry is not None and entry.untold:
                charges.append(Charge(key, entry.untold, self._rule(key).rate))
                entry.untold = 0.0
        return charges

    def give_back(self, charges: Iterable[Charge]) -> None:
        """Take back what could not be told; it is handed over again."""
        for item in charges:
            if item.key in self._entries:
                self._entries[item.key].untold += item.amount
                self._untold[item.key] = None

    def share(self, levels: Iterable[SharedLevel]) -> None:
        """Take over what all processes have charged together, and add what was charged here since."""
        now = self._now()
        for shared in levels:
            if shared.key.partition(" ")[0] not in self._limits:
                continue  # a process that is set up otherwise
            entry = self._entry(shared.key)
            charged = shared.level.left(self._rule(shared.key).rate, now) + entry.untold
            entry.level = Level(charged, now) if entry.untold else shared.level

    def _take(self, key: str, message: str | None = None, *, name: str | None = None) -> None:
        self._refuse(self._held([key]), name, message)
        self._charge([key])

    def _refuse(self, hold: _Hold | None, name: str | None = None, message: str | None = None) -> None:
        if hold is not None:
            self.held_up[hold.kind] += 1
            if name is not None:
                self.refusals.record(Reason.RATE_LIMITED, name)
            # Not by a variable of its own, which would hold it beyond the call: see `patience`.
            refuse = TooManyGuesses if hold.kind in _SUSPICIOUS else RateLimited
            raise refuse(message, retry_after=hold.wait) from None

    def _held(self, keys: Iterable[str]) -> _Hold | None:
        """The limit that holds up for longest."""
        longest: _Hold | None = None
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None:
                wait = self._rule(key).wait(entry.level, self._now())
                if wait > (longest.wait if longest else 0):
                    longest = _Hold(key.partition(" ")[0], wait)
        return longest

    def _charge(self, keys: Iterable[str]) -> None:
        now = self._now()
        for key in keys:
            rule = self._limits.get(key.partition(" ")[0])
            if rule is not None:
                entry = self._entry(key)
                entry.level = charge(entry.level, rule, 1, now)
                entry.untold += 1
                if entry.level.charged >= _TOLD_FROM * rule.allowance:
                    self._untold[key] = None

    def _forget_one(self) -> None:
        """Make room. A flood of names must not push out what is nearly used up, which few are."""
        for _ in range(_SPARED):
            key, entry = next(iter(self._entries.items()))
            rule = self._rule(key)
            if entry.level.left(rule.rate, self._now()) < _TOLD_FROM * rule.allowance:
                break
            self._entries.move_to_end(key)
        forgotten, _ = self._entries.popitem(last=False)
        self._untold.pop(forgotten, None)

    def _rule(self, key: str) -> Limit:
        return self._limits[key.partition(" ")[0]]

    def _entry(self, key: str) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(Level())
            if len(self._entries) > _KEPT:
                self._forget_one()
        else:
            self._entries.move_to_end(key)
        return entry


def _plain(name: str) -> str:
    """A name, or what stands for one that is long, or of characters that not every database takes."""
    if len(name) <= _LONGEST_NAME and name.isprintable():
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def prefix_of(peer: Peer) -> str:
    """What one party can be expected to have: an IPv4 address, or 64 bits of an IPv6 address (RFC 6177)."""
    if isinstance(peer.address, ipaddress.IPv6Address):
        return f"{ipaddress.IPv6Address(int(peer.address) >> 64 << 64)}/64"
    return str(peer)
