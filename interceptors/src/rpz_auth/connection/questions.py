"""Questions to the authority over the network.

All who ask the same at the same time share one question, and after one that got no answer nobody asks for a
moment, then one: an outage must neither become a stampede on the authority nor hold up a service's threads.
An authority that says of one question that it cannot decide it has answered: anybody can make up such a
question, and must not take their answers from others by it.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from rpz.auth.v1 import verification_service_pb2 as pb
from rpz.auth.v1 import verification_service_pb2_grpc as pb_grpc

from rpz_auth.caller import APP_SUBJECT_PREFIX, How, Verdict
from rpz_auth.connection import messages
from rpz_auth.connection.clock import AuthorityClock
from rpz_auth.errors import BackendUnavailable, Reason, TokenInvalid
from rpz_auth.question import Answer, ApiTokenQuestion, Question
from rpz_auth.status import reason_in
from rpz_auth.view import Standing

_TIMEOUT = 5.0
_PROBE_TIMEOUT = 1.0
_JOINABLE = 0.5
"""Seconds for which a question may be joined: what it will be answered may be as old."""
_PAUSE = 1.0
"""Seconds after a question without an answer in which none is asked."""
_OF_ONE_QUESTION = frozenset({Reason.TOKEN_UNDECIDED, Reason.RATE_LIMITED})
"""Why an authority that works leaves a question undecided."""


@dataclass(frozen=True, slots=True)
class _Flight:
    call: Any
    began: float


class Questions:
    """Asks one authority."""

    def __init__(
        self,
        stub: pb_grpc.VerificationServiceStub,
        clock: AuthorityClock,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask by `stub`; `clock` learns from answers that tell the time."""
        self._stub = stub
        self._clock = clock
        self._monotonic = monotonic
        self._flights: dict[Question, _Flight] = {}
        self._changing = threading.RLock()
        self._failing = False
        self._quiet_until = -math.inf

    def ask(self, question: Question) -> Answer:
        """Ask in this thread.

        Raises:
            TokenInvalid: The API token is good for nothing here.
            BackendUnavailable: The authority gave no answer, or cannot decide.
        """
        return self._read(self._join(question))

    async def ask_async(self, question: Question) -> Answer:
        """Ask without a thread; the errors are those of `ask`."""
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()
        call = self._join(question)
        call.add_done_callback(lambda _: loop.call_soon_threadsafe(answered.set))
        await answered.wait()
        return self._read(call)

    def _join(self, question: Question) -> Any:
        with self._changing:
            now = self._monotonic()
            flight = self._flights.get(question)
            if flight is not None and now < flight.began + _JOINABLE and not flight.call.done():
                return flight.call
            if now < self._quiet_until:
                raise BackendUnavailable
            if self._failing:
                self._quiet_until = now + _PROBE_TIMEOUT  # one asks, to see whether it answers again
            try:
                call = self._send(question)
            except ValueError:  # the channel was closed in this moment
                raise BackendUnavailable from None
            flight = self._flights[question] = _Flight(call, now)
        call.add_done_callback(lambda _: self._land(question, flight))
        return call

    def _send(self, question: Question) -> Any:
        timeout = _PROBE_TIMEOUT if self._failing else _TIMEOUT
        match question:
            case ApiTokenQuestion(app_id, api_token, peer):
                return self._stub.VerifyApiToken.future(
                    pb.VerifyApiTokenRequest(app_id=app_id, api_token=api_token, peer=str(peer)),
                    timeout=timeout,
                )
            case _:
                return self._stub.GetStanding.future(
                    pb.GetStandingRequest(app_ids=question.app_ids, ids=question.ids), timeout=_PROBE_TIMEOUT
                )

    def _land(self, question: Question, flight: _Flight) -> None:
        with self._changing:
            if self._flights.get(question) is flight:
                del self._flights[question]
            self._learn(flight.call)

    def _learn(self, call: Any) -> None:
        with self._changing:
            self._failing = not _was_heard(call)
            self._quiet_until = self._monotonic() + _PAUSE if self._failing else -math.inf

    def _read(self, call: Any) -> Answer:
        try:
            answer = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError):
            self._learn(call)  # grpc may tell of the end only after this
            raise BackendUnavailable from None
        if isinstance(answer, pb.GetStandingResponse):
            self._clock.observe(messages.seconds(answer.time))
            return Standing(
                tuple(map(messages.read_revocation, answer.revocations)),
                tuple(map(messages.read_app, answer.apps)),
                messages.read_keys(answer.keys),
            )
        return _read_verdict(answer)


def _was_heard(call: Any) -> bool:
    """Tell whether an authority that works has ended a call."""
    return call.code() is grpc.StatusCode.OK or reason_in(call.trailing_metadata() or ()) in _OF_ONE_QUESTION


def _read_verdict(answer: pb.VerifyApiTokenResponse) -> Verdict:
    if not answer.active:
        raise TokenInvalid
    return Verdict(
        how=How.API_TOKEN,
        app_id=answer.app_id,
        subject=APP_SUBJECT_PREFIX + answer.app_id,
        scopes=frozenset(answer.scopes),
        resources=frozenset(answer.resources),
        token_id=answer.api_token_id,
        expires_at=messages.seconds(answer.expire_time) if answer.HasField("expire_time") else math.inf,
        query_token_allowed=answer.query_token_allowed,
    )
