"""The authority over the network: a stream that keeps the view up to date, in a thread of its own.

One implementation serves threads and asyncio: the stream is grpc's synchronous one, and an asyncio
service awaits answers by a future. `View` may be read from anywhere.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2_grpc as pb_grpc

from rpz_auth.client import ApiToken, secure_channel
from rpz_auth.connection import messages
from rpz_auth.connection.clock import AuthorityClock
from rpz_auth.connection.questions import Questions
from rpz_auth.connection_file import VerifierFile
from rpz_auth.errors import BackendUnavailable, ConfigurationError
from rpz_auth.question import Answer, Question
from rpz_auth.view import View

_log = logging.getLogger("rpz_auth")

MAX_STALENESS = 10.0
"""Seconds of silence after which nothing is decided from the view any more."""
LONGEST_STALENESS = 300.0
"""Beyond it, a service would go on without revocations for longer than anybody wants to explain."""
_MAX_BACKOFF = 5.0
_CHANNEL_OPTIONS = (
    # grpc's own would be up to two minutes, in which a stream that is tried again finds no connection.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.enable_http_proxy", 0),
)
# Answers that repeating does not change: the verifier file is wrong, not the network.
_REFUSED = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
)


def connect(verifier_file: str | Path, *, max_staleness: float = MAX_STALENESS) -> Connection:
    """Make the connection that an `AuthInterceptor` takes; it is opened when the interceptor starts.

    Args:
        verifier_file: Path of the file that `rpz-auth apps create --verifier` wrote.
        max_staleness: For how many seconds of the authority's silence calls are still decided.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    return Connection(VerifierFile.read(verifier_file), max_staleness=max_staleness)


class Connection:
    """An `Authority` over the network."""

    def __init__(self, verifier: VerifierFile, *, max_staleness: float = MAX_STALENESS) -> None:
        """Prepare to connect as `verifier`; nothing is sent yet."""
        if not 0 < max_staleness <= LONGEST_STALENESS:
            raise ConfigurationError(
                f"max_staleness is more than 0 and at most {LONGEST_STALENESS:g} seconds"
            )
        self._verifier = verifier
        self._max_staleness = max_staleness
        self._clock = AuthorityClock()
        self._view = View(self._clock)
        self._cursor = ""
        self._parts: list[pb.Snapshot] = []
        self._known_or_refused = threading.Event()
        self._refused: str | None = None
        self._closing = threading.Event()
        self._starting = threading.Lock()
        self._running: _Running | None = None

    @property
    def issuer(self) -> str:
        """The `iss` of the authority's access tokens."""
        return self._verifier.issuer

    @property
    def resources(self) -> frozenset[str] | None:
        """What the verifier file is for; None if it does not say."""
        resources = self._verifier.resources
        return None if resources is None else frozenset(resources)

    @property
    def view(self) -> View:
        """What is known by now."""
        return self._view

    def start(self) -> None:
        """Connect and begin to learn; a second call does nothing."""
        with self._starting:
            if self._closing.is_set():
                raise ConfigurationError(
                    "this connection was closed; connect() anew, once for each interceptor"
                )
            if self._running is None:
                channel = secure_channel(
                    self._verifier.grpc_address,
                    ApiToken(self._verifier.app_id, self._verifier.api_token),
                    tls=self._verifier.transport(),
                    options=_CHANNEL_OPTIONS,
                )
                thread = threading.Thread(target=self._learn, name="rpz-auth-watch", daemon=True)
                stub = pb_grpc.VerificationServiceStub(channel)
                self._running = _Running(channel, stub, Questions(stub, self._clock), thread)
                thread.start()

    def wait(self, timeout: float) -> None:
        """Return once the first snapshot is there; `timeout` is in seconds.

        Raises:
            ConfigurationError: The authority refuses this verifier.
            BackendUnavailable: The time has passed.
        """
        if not self._known_or_refused.wait(timeout):
            raise BackendUnavailable(
                f"the authority at {self._verifier.grpc_address} sent no snapshot within {timeout:g} s"
            )
        if self._refused is not None and not self._view.known:
            raise ConfigurationError(f"the authority refuses this verifier file: {self._refused}")

    def close(self) -> None:
        """Stop learning and close the channel."""
        with self._starting:
            self._closing.set()
            if self._running is not None:
                self._running.channel.close()
                self._running.thread.join()
                self._running = None
            # Nothing is learned from here on; before, a heartbeat on its way would have undone this.
            self._view.refresh(-math.inf, heard_at=-math.inf)

    def ask(self, question: Question) -> Answer:
        """Ask over the network, in this thread.

        Raises:
            TokenInvalid: The API token is good for nothing here.
            BackendUnavailable: The authority gave no answer.
        """
        return self._questions().ask(question)

    async def ask_async(self, question: Question) -> Answer:
        """Ask over the network, without a thread; the errors are those of `ask`."""
        return await self._questions().ask_async(question)

    def _questions(self) -> Questions:
        running = self._running
        if running is None:
            raise BackendUnavailable
        return running.questions

    def _learn(self) -> None:
        running = self._running
        failures = 0
        while running is not None and not self._closing.is_set():
            try:
                self._parts = []
                for message in running.stub.Watch(pb.WatchRequest(cursor=self._cursor)):
                    self._take(message)
                    failures = 0
                failure = "the stream ended"
            except grpc.RpcError as error:
                failure = f"{error.code().name}: {error.details()}"
                if error.code() in _REFUSED:
                    self._refused = failure
                    self._known_or_refused.set()
            except Exception:  # noqa: BLE001 - see below
                # Whatever cannot be understood must not end the only thread that learns.
                _log.exception("rpz-auth: a message of the authority could not be read")
                self._cursor, failure = "", "a message could not be read"
            if self._closing.is_set():
                return
            failures += 1
            delay = min(_MAX_BACKOFF, 0.05 * 2.0**failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            _log.warning("rpz-auth: no stream from the authority (%s); next try in %.1f s", failure, delay)
            self._closing.wait(delay)

    def _take(self, message: pb.WatchResponse) -> None:
        sent_at = messages.seconds(message.time)
        self._clock.observe(sent_at)
        match message.WhichOneof("content"):
            case "snapshot":
                self._parts.append(message.snapshot)
                if not message.snapshot.last:
                    return
                self._view.replace(messages.read_snapshot(self._parts))
                self._parts = []
            case "events":
                self._view.apply([messages.read_event(event) for event in message.events.events])
            case "heartbeat":
                # The only proof that the authority still commits, and so learns of revocations.
                self._view.refresh(sent_at + self._max_staleness, heard_at=sent_at)
                self._known_or_refused.set()
        self._cursor = message.cursor


@dataclass(frozen=True, slots=True)
class _Running:
    channel: grpc.Channel
    stub: pb_grpc.VerificationServiceStub
    questions: Questions
    thread: threading.Thread
