"""How a service stands with its authority, and a line in the log whenever that changes."""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from rpz_auth.errors import Reason
from rpz_auth.view import View

_log = logging.getLogger("rpz_auth")

_LOOK = 0.5
"""Seconds between two looks at the age of what is known."""


class State(enum.StrEnum):
    """What a service has heard of its authority."""

    STARTING = "starting"
    """No snapshot came yet."""
    FRESH = "fresh"
    """Decisions are local."""
    STALE = "stale"
    """The authority was silent for longer than `max_staleness`; `when_stale` says what becomes of calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthStatus:
    """What `AuthInterceptor.status` tells."""

    state: State
    age: float
    """Seconds since the authority last proved that it works; infinite if it never has."""
    streams: int
    """Running streams that hold a lease."""
    observed: Mapping[Reason, int]
    """In observe mode: how many calls would have been refused, and why."""
    verifications: int = field(default=0, compare=False)
    """Credentials that were not found in the cache, since the service began."""


def state_of(view: View) -> State:
    """What was heard by now."""
    if view.is_fresh:
        return State.FRESH
    return State.STALE if view.known else State.STARTING


class Watchman:
    """Logs every change of state, for as long as it is on duty."""

    def __init__(self, view: View, resource: str) -> None:
        """Look at `view`, for a service that is known as `resource`."""
        self._view = view
        self._resource = resource
        self._state = State.STARTING
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="rpz-auth-health", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End."""
        if self._thread is not None:
            self._leaving.set()
            self._thread.join()
            self._thread = None
            self._leaving.clear()

    def look(self) -> None:
        """Log what has changed since the last look."""
        state = state_of(self._view)
        if state is self._state:
            return
        before, self._state = self._state, state
        if state is State.FRESH:
            _log.info("rpz-auth: %s is up to date with its authority (was %s)", self._resource, before)
        else:
            _log.error(
                "rpz-auth: %s has heard nothing of its authority for %.1f s (%s)",
                self._resource,
                self._view.age,
                state,
            )

    def _watch(self) -> None:
        while True:
            self.look()
            if self._leaving.wait(_LOOK):
                return
