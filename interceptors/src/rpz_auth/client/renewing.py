"""Access tokens that renew by themselves: once for all threads and tasks, and before they expire."""

from __future__ import annotations

import abc
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rpz_auth import credentials
from rpz_auth.errors import RenewalFailed, SignInRequired

_log = logging.getLogger("rpz_auth")

_EARLIEST, _LATEST = 0.7, 0.9
"""The part of a token's life after which it is renewed, drawn anew each time: a thousand clients that started
together spread over a fifth of it."""
_SPARE = 0.95
"""The part of its life for which a token is sent at all: it must still be good when it arrives."""
FRESH_SECONDS = 10.0
"""For how long a new token is not given up when a service refuses it: renewing did not help then."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
"""Seconds of rest after failures, in which nobody asks the authority again."""


@dataclass(frozen=True, slots=True)
class Obtained:
    """An access token from the authority."""

    access_token: str = field(repr=False)
    asked_at: float
    """When it was asked for, by the renewing token's clock: earlier than the authority issued it."""
    expires_in: float
    """In seconds."""


@dataclass(frozen=True, slots=True)
class _Held:
    token: str = field(repr=False)
    obtained_at: float
    renew_at: float
    expires_at: float


class _Flight:
    """One renewal under way, which everybody who needs its token waits for."""

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.failure: RenewalFailed | None = None


def _seconds_awake_or_asleep() -> float:
    """Seconds from anywhere, which also pass while the machine is suspended, as tokens expire then."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class RenewingToken(abc.ABC):
    """A credential that always has an access token, sent as `Bearer`; safe for threads and tasks.

    Whoever needs a token while none is good waits for the one renewal that is under way. One that is about
    to expire is renewed by the first who asks; the others go on with it meanwhile.
    """

    def __init__(self, *, clock: Callable[[], float] | None = None) -> None:
        """Have no token yet; `clock` is in seconds from anywhere, and this machine's unless it is given."""
        self._clock = clock or _seconds_awake_or_asleep
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._flight: _Flight | None = None
        self._failure: RenewalFailed | None = None
        self._failures = 0
        self._resting_until = float("-inf")

    @abc.abstractmethod
    def _obtain(self) -> Obtained:
        """Get a new access token from the authority; one thread at a time is in here.

        Raises:
            RenewalFailed: There is none to be had now.
        """

    def field_value(self) -> str:
        """The header's value; waits for a renewal if need be.

        Raises:
            RenewalFailed: There is no token, and none could be had.
        """
        return credentials.format_bearer(self.access_token())

    def access_token(self) -> str:
        """An access token that is good now; waits for a renewal if need be, so not on an event loop.

        Raises:
            SignInRequired: The grant has ended; the user must sign in again.
            RenewalFailed: The authority gave none, and the one before has expired.
        """
        now = self._clock()
        with self._lock:
            held, flight = self._held, self._flight
            if held is not None and (
                now < held.renew_at or (now < held.expires_at and (flight or now < self._resting_until))
            ):
                return held.token
            return self._join(flight, now)

    def peek(self) -> str | None:
        """The access token that a call made now would take along, or None when it would have to wait."""
        with self._lock:
            held = self._held
            return held.token if held is not None and self._clock() < held.expires_at else None

    def check(self) -> None:
        """Let pass what can go on.

        Raises:
            SignInRequired: When last asked, the authority said that the grant has ended.
        """
        with self._lock:
            failure = self._failure
        if isinstance(failure, SignInRequired):
            raise _again(failure)

    def replace(self, refused: str) -> bool:
        """Renew because a service refused an access token; waits, so not on an event loop.

        Returns:
            Whether there is another token now. There is none when the refused one is itself new: whatever
            is wrong then, renewing does not mend it.
        """
        now = self._clock()
        with self._lock:
            held = self._held
            if held is None or held.token != refused:
                return True
            if now < held.obtained_at + FRESH_SECONDS:
                return False
            try:
                return self._join(self._flight, now) != refused
            except RenewalFailed:
                return False

    def _join(self, flight: _Flight | None, now: float) -> str:
        """Wait for the renewal that is under way, or be it; the lock is held before and after."""
        if flight is None:
            if self._failure is not None and now < self._resting_until:
                raise _again(self._failure)
            return self._lead()
        self._lock.release()
        try:
            flight.landed.wait()
        finally:
            self._lock.acquire()
        if flight.failure is not None:
            raise _again(flight.failure)
        assert self._held is not None  # noqa: S101 - a flight without a failure has landed with a token
        return self._held.token

    def _lead(self) -> str:
        flight = self._flight = _Flight()
        held = self._held
        obtained: Obtained | None = None
        self._lock.release()
        try:
            obtained = self._obtain()
        except RenewalFailed as failure:
            flight.failure = failure
        except BaseException:
            flight.failure = RenewalFailed("the renewal was broken off by an unexpected error; see the log")
            raise
        finally:
            self._lock.acquire()
            self._land(flight, obtained)
        if obtained is not None:
            return obtained.access_token
        assert flight.failure is not None  # noqa: S101 - one of the two is there
        if held is not None and self._clock() < held.expires_at:
            _log.warning("rpz-auth: the access token could not be renewed yet: %s", flight.failure)
            return held.token
        raise flight.failure

    def _land(self, flight: _Flight, obtained: Obtained | None) -> None:
        self._flight = None
        if obtained is not None:
            self._adopt(obtained)
        else:
            self._failure = flight.failure
            self._resting_until = self._clock() + self._pause(flight.failure)
        flight.landed.set()

    def _pause(self, failure: RenewalFailed | None) -> float:
        if isinstance(failure, SignInRequired):
            return _FIRST_PAUSE  # asks nobody but the store, where the user may have signed in again
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._failures += 1
        asked_for = failure.retry_after if failure is not None else None
        return max(pause, asked_for or 0.0)

    def _adopt(self, obtained: Obtained) -> None:
        """Hold a token; the lock is held."""
        lifetime = obtained.expires_in
        self._held = _Held(
            token=obtained.access_token,
            obtained_at=self._clock(),
            renew_at=obtained.asked_at + lifetime * random.uniform(_EARLIEST, _LATEST),  # noqa: S311 - jitter
            expires_at=obtained.asked_at + lifetime * _SPARE,
        )
        self._failure = None
        self._failures = 0
        self._resting_until = float("-inf")


def _again(failure: RenewalFailed) -> RenewalFailed:
    """The same failure for another thread; a shared exception would collect the tracebacks of all."""
    return type(failure)(str(failure), retry_after=failure.retry_after)
