"""Clients under load, and the ledger of all that was acknowledged to them."""

from __future__ import annotations

import concurrent.futures
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import grpc
import rpz_auth
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz.auth.v1 import token_service_pb2_grpc as token_grpc
from support.authority import (
    CODE_CHALLENGE,
    REDIRECT_URI,
    Client,
    exchange_request,
    reason,
    refresh_request,
)
from support.orders import Service

T = TypeVar("T")

TIMEOUT = 15.0
"""Seconds that a call may take. The authority answers in eight; what takes longer hangs."""
BOUND = 45.0
"""Seconds of silence after which a service decides nothing any more, and so the longest that a token which
was revoked may pass. Longer than the longest failover, or nothing could be verified meanwhile."""


@dataclass
class Endpoint:
    """One authority, as clients reach it: by an address that outlives its process."""

    address: str
    tls: grpc.ChannelCredentials
    administrator: rpz_auth.ApiToken
    tokens: token_grpc.TokenServiceStub = field(init=False)
    as_administrator: token_grpc.TokenServiceStub = field(init=False)

    def __post_init__(self) -> None:
        # A client that is sent away comes back soon, or every gap would be as long as its patience.
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        self.tokens = token_grpc.TokenServiceStub(grpc.secure_channel(self.address, self.tls, options))
        self.as_administrator = token_grpc.TokenServiceStub(
            rpz_auth.secure_channel(self.address, self.administrator, tls=self.tls, options=options)
        )


@dataclass
class Session:
    """One grant, and what was promised about it."""

    subject: str
    generation: int = 0
    revoked: bool = False
    ended: bool = False
    """An outcome is unknown, so that nothing more is asked of it."""


class Gap:
    """The longest time without an event, while watched."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: float | None = None
        self.longest = 0.0

    def note(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._last is not None:
                self.longest = max(self.longest, now - self._last)
            self._last = now

    def take(self) -> float:
        """The longest since it was asked last, the one that has not ended included."""
        with self._lock:
            longest, self.longest = self.longest, 0.0
            return longest if self._last is None else max(longest, time.monotonic() - self._last)


class Load:
    """Threads that sign in, renew and revoke, at whichever authority answers, and services that verify."""

    def __init__(
        self, endpoints: Sequence[Endpoint], client: Client, services: Sequence[Service], threads: int = 6
    ) -> None:
        self._endpoints = endpoints
        self._client = client
        self._services = services
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(threads + len(services) + 1)
        self._threads = threads
        self._running: list[concurrent.futures.Future[None]] = []
        self.sessions: list[Session] = []
        self.writes = Gap()
        self.verified = [Gap() for _ in services]
        self.acknowledged: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.violations: list[str] = []
        self.slowest_revocation = 0.0

    def __enter__(self) -> Self:
        standing = self._sign_in(Session(f"user:{uuid.uuid4()}"), 0)
        assert standing is not None
        for number in range(self._threads):
            self._running.append(self._pool.submit(self._guard, self._live, number))
        for number, service in enumerate(self._services):
            self._running.append(
                self._pool.submit(self._guard, self._verify, service, standing, self.verified[number])
            )
        self._running.append(self._pool.submit(self._guard, self._revoke_and_look, 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        concurrent.futures.wait(self._running, 60)
        self._pool.shutdown(wait=False)

    def _guard(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self.violations.append(f"the test itself failed: {error!r}")
            raise

    def wait_for_a_write(self) -> None:
        """Return once one has been acknowledged."""
        before, deadline = self.acknowledged.total(), time.monotonic() + 60
        while self.acknowledged.total() == before:
            if time.monotonic() > deadline:
                self.violations.append("no write was acknowledged for a minute after all was whole again")
                return
            time.sleep(0.05)

    # Clients

    def _call(self, what: str, number: int, call: Callable[[Endpoint], T]) -> T | None:
        """Make one call at the authority of a number; None when it was refused."""
        begun = time.monotonic()
        try:
            answer = call(self._endpoints[number % len(self._endpoints)])
        except grpc.RpcError as error:
            why = reason(error) or error.code().name
            self.refused[f"{what}: {why}"] += 1
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED or time.monotonic() - begun > TIMEOUT:
                self.violations.append(f"{what} hung for {time.monotonic() - begun:.1f} s")
            if why not in {"BACKEND_UNAVAILABLE", "UNAVAILABLE", "CANCELLED", "CONFLICT"}:
                self.violations.append(f"{what} was refused: {why} {error.details()}")
            return None
        self.acknowledged[what] += 1
        self.writes.note()
        return answer

    def _sign_in(self, session: Session, number: int) -> token_pb.ExchangeTokenResponse | None:
        self.sessions.append(session)
        request = token_pb.IssueCodeRequest(
            client_id=self._client.app_id,
            redirect_uri=REDIRECT_URI,
            scopes=["orders.read"],
            subject=session.subject,
            code_challenge=CODE_CHALLENGE,
            code_challenge_method="S256",
        )
        issued = self._call(
            "issue", number, lambda to: to.as_administrator.IssueCode(request, timeout=TIMEOUT)
        )
        if issued is None:
            session.ended = True
            return None
        exchange = exchange_request(self._client, issued.code)
        tokens = self._call(
            "exchange", number + 1, lambda to: to.tokens.ExchangeToken(exchange, timeout=TIMEOUT)
        )
        if tokens is None:
            session.ended = True
            return None
        session.generation = 1
        return tokens

    def _live(self, number: int) -> None:
        while not self._stop.is_set():
            number += 1
            session = Session(f"user:{uuid.uuid4()}")
            tokens = self._sign_in(session, number)
            if tokens is None:
                self._stop.wait(0.05)
                continue
            token = tokens.refresh_token
            for _ in range(8):
                renewed = self._refresh(number, token)
                if renewed is None:
                    session.ended = True
                    break
                token = renewed
                session.generation += 1
            else:
                if number % 4 == 0:
                    self._revoke(session, number, token)

    def _refresh(self, number: int, token: str) -> str | None:
        """Renew at two authorities at once: whatever both answer must be one and the same."""
        request = refresh_request(self._client, token)
        deadline = time.monotonic() + 40  # within the grace, in which a lost answer may be asked for again
        while not self._stop.is_set() and time.monotonic() < deadline:
            answers = []
            for offset in (0, 1):
                to = self._endpoints[(number + offset) % len(self._endpoints)]
                answers.append(to.tokens.Refresh.future(request, timeout=TIMEOUT))
            found: set[str] = set()
            for answer in answers:
                renewed = self._call("refresh", number, lambda _, answer=answer: answer.result())  # type: ignore[misc]
                if renewed is not None:
                    found.add(renewed.refresh_token)
            if len(found) > 1:
                self.violations.append("one generation was consumed twice")
            if found:
                return found.pop()
            self._stop.wait(0.3)
        return None

    def _revoke(self, session: Session, number: int, token: str) -> bool:
        request = token_pb.RevokeTokenRequest(
            token=token, client_id=self._client.app_id, client_secret=self._client.secret
        )
        done = self._call("revoke", number, lambda to: to.tokens.RevokeToken(request, timeout=TIMEOUT))
        session.revoked = done is not None
        session.ended = not session.revoked
        return session.revoked

    # Services

    def _verify(self, service: Service, standing: Any, gap: Gap) -> None:
        credential = f"Bearer {standing.access_token}"
        while not self._stop.is_set():
            answer = service.answer(credential)
            if answer is None:
                gap.note()
            else:
                self.refused[f"verify: {answer}"] += 1
            self._stop.wait(0.02)

    def _revoke_and_look(self, number: int) -> None:
        while not self._stop.is_set():
            number += 1
            session = Session(f"user:{uuid.uuid4()}")
            tokens = self._sign_in(session, number)
            if tokens is None or not self._revoke(session, number, tokens.refresh_token):
                self._stop.wait(0.1)
                continue
            revoked = time.monotonic()
            credential = f"Bearer {tokens.access_token}"
            for service in self._services:
                while service.answer(credential) is None:
                    if time.monotonic() - revoked > BOUND + 1:
                        self.violations.append("a revoked token was accepted beyond the bound")
                        break
                    time.sleep(0.005)
            self.slowest_revocation = max(self.slowest_revocation, time.monotonic() - revoked)
            self._stop.wait(0.2)
