"""How what protects a resource starts and stops with its service, and how it stands in between."""

from __future__ import annotations

import logging

from rpz_auth.authority import Authority
from rpz_auth.decide import Decider
from rpz_auth.errors import BackendUnavailable
from rpz_auth.service.health import AuthStatus, Watchman, state_of
from rpz_auth.service.observe import Observer
from rpz_auth.service.running import RunningStreams

_log = logging.getLogger("rpz_auth")

START_TIMEOUT = 30.0
"""Seconds that a service's start waits for the authority's first word."""


class Lifecycle:
    """Of one interceptor, middleware or answerer."""

    def __init__(
        self,
        authority: Authority,
        decider: Decider,
        *,
        resource: str,
        policies: object,
        needs_authority: bool,
        streams: RunningStreams | None = None,
        observer: Observer | None = None,
        timeout: float = START_TIMEOUT,
    ) -> None:
        """Start nothing yet.

        Args:
            authority: What is learned from.
            decider: What decides.
            resource: What is protected.
            policies: The table that the log shows.
            needs_authority: Whether nothing ever passes without it, so that a start without it is an error.
            streams: Those that run, where they are known.
            observer: Set where nothing is refused.
            timeout: Seconds that the start waits for the authority's first word.
        """
        self._authority = authority
        self._decider = decider
        self._resource = resource
        self._policies = policies
        self._needs_authority = needs_authority
        self._streams = streams
        self._observer = observer
        self._timeout = timeout
        self._watchman = Watchman(authority.view, resource)

    def start(self) -> None:
        """Connect, and wait for the first snapshot.

        A service all of whose methods refuse when stale does not start without the authority. Any other
        does, and says so in its log: its calls are refused, or asked about one by one, until it answers.

        Raises:
            ConfigurationError: The authority refuses this service's verifier file.
            BackendUnavailable: The authority could not be reached.
        """
        _log.info("rpz-auth protects %s:\n%s", self._resource, self._policies)
        if self._observer is not None:
            _log.warning("rpz-auth only observes: %s is NOT protected", self._resource)
        self._authority.start()
        try:
            self._authority.wait(self._timeout)
        except BackendUnavailable as error:
            if self._needs_authority:
                self._authority.close()
                raise
            _log.error("rpz-auth: %s starts without its authority: %s", self._resource, error)
        except BaseException:
            self._authority.close()
            raise
        self._watchman.start()

    def stop(self) -> None:
        """Let go of the authority."""
        self._watchman.stop()
        self._authority.close()

    def status(self) -> AuthStatus:
        """How the service stands with its authority."""
        view = self._authority.view
        return AuthStatus(
            state=state_of(view),
            age=view.age,
            streams=0 if self._streams is None else len(self._streams),
            verifications=self._decider.verifications,
            observed={} if self._observer is None else self._observer.counts,
        )
