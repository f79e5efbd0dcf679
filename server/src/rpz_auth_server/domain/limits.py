"""How often something may be done: two rules over a level that leaks away, and what is shared of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

_STEEPEST = 32
"""Doublings after which a delay has long reached its bound."""
_GENUINE_FAILURES = 10
_GENUINE_DELAY = 5.0
"""Seconds; what ends a failure (an App is unlocked, a whitelist grows) must not wait for long."""


@dataclass(frozen=True, slots=True)
class Level:
    """What was charged lately: so much at a moment, from which on it leaks away at the limit's rate."""

    charged: float = 0.0
    at: float = 0.0
    """When it was charged last, in seconds since the epoch on the database's clock."""

    def left(self, rate: float, now: float) -> float:
        """What has not leaked away by now."""
        return max(0.0, self.charged - rate * max(0.0, now - self.at))


class Limit(Protocol):
    """A rule that says how long to wait."""

    @property
    def rate(self) -> float:
        """What leaks away each second."""
        ...

    @property
    def allowance(self) -> float:
        """What may be charged before anybody waits."""
        ...

    def wait(self, level: Level, now: float) -> float:
        """Seconds until the next may be done; 0 for now."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """A token bucket: `allowance` at once, and `rate` a second in the long run."""

    allowance: float
    rate: float

    def wait(self, level: Level, now: float) -> float:
        """Until there is room for one."""
        return max(0.0, (level.left(self.rate, now) + 1 - self.allowance) / self.rate)


@dataclass(frozen=True, slots=True)
class Backoff:
    """A delay after each, once the allowance is used up: a second, then two, then four, up to `longest`.

    One is forgiven in each `longest` seconds.
    """

    allowance: float
    longest: float

    @property
    def rate(self) -> float:
        """See `Limit.rate`."""
        return 1 / self.longest

    def wait(self, level: Level, now: float) -> float:
        """Until the delay after the last one has passed."""
        over = level.charged - self.allowance
        if over < 0:
            return 0.0
        delay = min(self.longest, math.pow(2, min(over, _STEEPEST)))
        return max(0.0, level.at + delay - now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of what; 0 for without a limit."""

    failures: int = 5
    """Guesses of one peer at one App before each has to wait for longer than the one before."""
    longest_delay: float = 300
    """In seconds."""
    peer_failures: int = 60
    """Guesses of one peer each minute, at whichever Apps."""
    app_failures: int = 600
    """Guesses at one App each minute, of peers that were not right lately."""
    uses: int = 30
    """Of one grant's code or refresh token each minute."""
    verifications: int = 1000
    """Of one verifier each second."""
    revocations: int = 60
    """By one App of its access tokens each minute; ten minutes' worth at once."""
    changes: int = 120
    """By one caller who is no administrator each minute."""

    pushes: int = 30
    """By one peer for one App that has no secret, each minute."""

    def by_kind(self) -> Mapping[str, Limit]:
        """Each rule by the kind of its keys."""
        limits: dict[str, Limit] = {}
        if self.failures:
            limits["guess"] = Backoff(self.failures, self.longest_delay)
            limits["misuse"] = limits["guess"]
            limits["genuine"] = Backoff(_GENUINE_FAILURES, min(_GENUINE_DELAY, self.longest_delay))
        for kind, number, seconds in (
            ("peer", self.peer_failures, 60),
            ("app", self.app_failures, 60),
            ("grant", self.uses, 60),
            ("verifier", self.verifications, 1),
            ("revocation", 10 * self.revocations, 600),
            ("change", self.changes, 60),
            ("push", self.pushes, 60),
        ):
            if number:
                limits[kind] = Budget(number, number / seconds)
        return limits


def charge(level: Level, limit: Limit, amount: float, now: float) -> Level:
    """Charge what was done."""
    return Level(level.left(limit.rate, now) + amount, max(level.at, now))


@dataclass(frozen=True, slots=True)
class Charge:
    """What one process adds to a level that all share."""

    key: str
    amount: float
    rate: float


@dataclass(frozen=True, slots=True)
class SharedLevel:
    """A level as all processes know it."""

    key: str
    level: Level


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """How often calls of an App were refused for one reason in one minute."""

    app_id: str
    """Empty for calls that named no App of this authority."""
    reason: str
    minute: int
    """Minutes since the epoch, on the database's clock."""
    count: int
