"""The decision about one call: written once, driven by threads and by asyncio alike.

What is known of a credential that came before decides at once. Anything else is a generator: it yields a
question when it needs the authority, is sent the answer, and returns the caller. Both raise a `Refusal`
for every input that they do not let pass.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rpz_auth import access_token, credentials
from rpz_auth.address import Peer, TrustedProxies, with_origin
from rpz_auth.cache import BoundedCache
from rpz_auth.caller import APP_ID, Admission, Caller, How, Verdict
from rpz_auth.errors import (
    BackendUnavailable,
    CredentialsMissing,
    MethodUnknown,
    Refusal,
    ScopeInsufficient,
    TokenExpired,
    TokenInvalid,
)
from rpz_auth.policy import Demand, Policy
from rpz_auth.question import Answer, ApiTokenQuestion, Question, StandingQuestion
from rpz_auth.staleness import CHECK, Mode, WhenStale
from rpz_auth.view import Standing, View

T = TypeVar("T")
Metadata = Sequence[tuple[str, str | bytes]]

API_TOKEN_CACHE_SECONDS = 300.0
"""For how long a good answer about an API token is used, unless it is revoked or its App changes."""
REFUSAL_CACHE_SECONDS = 5.0
"""For how long a bad answer is used, unless the App changes."""
CHECK_SECONDS = 0.5
"""For how long the answer to a question that was asked because of the authority's silence is used."""
KEY_COOLDOWN = 10.0
"""Seconds from one look-up of an unknown key to the next; the keys are pushed before they sign."""
_QUESTIONS = 3
"""Times that one call asks about an API token while its App changes without end."""
_EPSILON = 0.001
_CACHE_SIZE = 16_384
_REFUSAL_CACHE_SIZE = 4_096

_API_TOKEN = re.compile(r"rpzt_[A-Za-z0-9_-]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Span:
    """For how long an answer about an API token is used: until a time, and until its App changes."""

    until: float
    app_id: str
    version: tuple[int, int]


class _Known:
    """What a good credential says."""

    __slots__ = ("_latest", "span", "verdict")

    def __init__(self, verdict: Verdict, span: _Span | None) -> None:
        self.verdict = verdict
        self.span = span
        """None for an access token: it says itself until when it is good."""
        self._latest: Admission | None = None

    def admit(self, peer: Peer) -> Admission:
        """The admission of whoever presents it; most often that is who did so before."""
        admission = self._latest
        if admission is None or admission.peer is not peer:
            admission = self._latest = Admission(peer, Caller(self.verdict, peer))
        return admission


Asking = Generator[Question, Answer, T]
"""The rest of a decision that needs more than is known, or a part of one."""
Decision = Admission | Asking[Admission]
"""What `run` and `run_async` take: made already, or the rest of it."""


class Decider:
    """Decides who may call, for one resource."""

    def __init__(
        self,
        view: View,
        *,
        issuer: str,
        resource: str,
        trusted_proxies: TrustedProxies | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Decide by what `view` knows, for tokens of `issuer` that name `resource`."""
        self.view = view
        self._issuer = issuer
        self._resource = resource
        self._proxies = trusted_proxies or TrustedProxies(())
        self._known: BoundedCache[_Known] = BoundedCache(_CACHE_SIZE)
        self._refused: BoundedCache[_Span] = BoundedCache(_REFUSAL_CACHE_SIZE)
        self.verifications = 0
        """How many credentials were not found in the cache."""
        self._confirmed: BoundedCache[float] = BoundedCache(_CACHE_SIZE)
        self._read: BoundedCache[_Known] = BoundedCache(_CACHE_SIZE)
        """By the digest of a field as it came: reading one costs more than all else. Spellings of one good
        credential can push each other out of here, but nothing out of the other caches."""
        self._monotonic = monotonic
        self._look_up_after = -math.inf
        self._looking_up = threading.Lock()

    def decide(
        self, policy: Policy | None, metadata: Metadata, peer: Peer, when_stale: WhenStale = CHECK
    ) -> Decision:
        """Decide about one call, as far as that can be done at once.

        Args:
            policy: Of the method; None for a method that is unknown or has none.
            metadata: As received, keys in lower case.
            peer: The other end of the connection.
            when_stale: What becomes of the call while what is known may be out of date.

        Returns:
            The admission, or the rest of the decision, for `run` or `run_async`.

        Raises:
            Refusal: Of any kind that `status.TABLE` maps; the call must not reach its handler.
        """
        peer = with_origin(self._proxies.resolve(peer, metadata), metadata)
        if policy is not None and policy.demand is not Demand.SCOPES:
            return Admission(peer, None)
        value = credentials.find(metadata)
        if value is None:
            raise CredentialsMissing
        view, now = self.view, self.view.now()
        doubtful = (now > view.fresh_until or not view.known) and self._is_doubtful(when_stale)
        digest = _digest_text(value)
        known = self._read.get(digest)
        if known is None or doubtful or not self._holds(known.span):
            return self._find_out(policy, value, digest, peer, doubtful=doubtful)
        return self._admit(policy, known, peer, now)

    def _admit(self, policy: Policy | None, known: _Known, peer: Peer, now: float) -> Admission:
        try:
            self._check(known.verdict, peer, now)
            if policy is None:
                raise MethodUnknown
            if not policy.scopes <= known.verdict.scopes:
                raise ScopeInsufficient(policy.scopes)
        except Refusal as refusal:
            refusal.app_id = known.verdict.app_id
            raise
        return known.admit(peer)

    def _find_out(
        self, policy: Policy | None, value: str, digest: bytes, peer: Peer, *, doubtful: bool
    ) -> Asking[Admission]:
        credential = credentials.parse(value)
        if isinstance(credential, credentials.Bearer):
            access_token.check_form(credential.token)  # cheap, and what most guesses fail at
        key = _digest(credential)
        known = self._known.get(key)
        if known is None or not self._holds(known.span):
            known = yield from self._verify(credential, key, peer)
        if doubtful:
            yield from self._confirm(Caller(known.verdict, peer), key)
            if not self._holds(known.span):  # the answer changed what is known of the App
                known = yield from self._verify(credential, key, peer)
        self._read.put(digest, known)
        return self._admit(policy, known, peer, self.view.now())

    def resolve(self, peer: Peer, metadata: Metadata) -> Peer:
        """The client behind a trusted proxy, or the peer itself."""
        return self._proxies.resolve(peer, metadata)

    def recheck(self, caller: Caller, when_stale: WhenStale = CHECK, confirmed_at: float = -math.inf) -> None:
        """Let a stream go on that was let begin.

        Args:
            caller: Who opened it.
            when_stale: The choice of its method.
            confirmed_at: When the authority was last asked about it, on its clock.

        Raises:
            Refusal: Its credential has expired or was revoked, its App may not call any more (or not from
                there), or nobody can tell.
        """
        view, now = self.view, self.view.now()
        self._check(caller.verdict, caller.peer, now)
        if self._is_doubtful(when_stale) and now > CHECK_SECONDS + max(view.fresh_until, confirmed_at):
            raise BackendUnavailable

    def seconds_until_doubt(self, caller: Caller) -> float:
        """For how long nothing but a change can end a caller's stream; negative when anything else may."""
        return min(caller.verdict.expires_at, self.view.fresh_until + _EPSILON) - self.view.now()

    def wants_to_ask(self, when_stale: WhenStale) -> bool:
        """Whether streams of a method must be asked about now."""
        return when_stale.mode is Mode.CHECK and not self.view.is_fresh

    def _is_doubtful(self, when_stale: WhenStale) -> bool:
        """Whether the authority must be asked before a call can pass.

        Raises:
            BackendUnavailable: It must not pass.
        """
        view = self.view
        if view.known and view.now() <= view.fresh_until:
            return False
        if when_stale.mode is Mode.CHECK:
            return True
        if when_stale.mode is Mode.SERVE and view.known and view.age <= when_stale.until:
            return False
        raise BackendUnavailable

    def _confirm(self, caller: Caller, key: bytes) -> Asking[None]:
        confirmed_at, now = self._confirmed.get(key), self.view.now()
        if confirmed_at is not None and now < confirmed_at + CHECK_SECONDS:
            return
        standing = yield from self._ask_standing(StandingQuestion.about(caller.verdict))
        standing.check(caller.verdict, caller.peer)
        self._confirmed.put(key, now)

    def _ask_standing(self, question: StandingQuestion) -> Asking[Standing]:
        asked = self.view.moment()
        standing = yield replace(question, asked=asked)
        if not isinstance(standing, Standing):
            raise BackendUnavailable
        self.view.take(standing, asked)
        return standing

    def _check(self, verdict: Verdict, peer: Peer, now: float) -> None:
        if now >= verdict.expires_at:
            raise TokenExpired
        # On every call, cache or not: what was good a moment ago may have been revoked since.
        self.view.check(verdict, peer)

    def _verify(
        self, credential: credentials.Bearer | credentials.Basic, key: bytes, peer: Peer
    ) -> Asking[_Known]:
        self.verifications += 1
        now = self.view.now()
        match credential:
            case credentials.Bearer(token):
                verdict = yield from self._verify_access_token(token)
                known = _Known(verdict, None)
            case credentials.Basic(user, password):
                for _ in range(_QUESTIONS):
                    # Read before the question: a change that passes the answer on its way makes it worthless.
                    version = self.view.version_of(user)
                    question = ApiTokenQuestion(user, password, peer, version)
                    verdict = yield from self._ask(question, key, now)
                    if self.view.version_of(user) == version:
                        break
                else:
                    raise BackendUnavailable
                known = _Known(verdict, _Span(now + API_TOKEN_CACHE_SECONDS, user, version))
        self._known.put(key, known)
        return known

    def _verify_access_token(self, token: str) -> Asking[Verdict]:
        def verify() -> Verdict:
            return access_token.verify(
                token,
                self.view.keys,
                issuer=self._issuer,
                resources={self._resource},
                now=self.view.now(),
            )

        try:
            return verify()
        except access_token.KeyUnknown:
            if not self._may_look_up_keys():
                raise self._unless_nothing_is_known() from None
        try:
            yield from self._ask_standing(StandingQuestion())
        except BackendUnavailable:
            raise self._unless_nothing_is_known() from None
        return verify()

    def _may_look_up_keys(self) -> bool:
        # Anybody can make up keys, so one look-up is for all who come in its time.
        with self._looking_up:
            now = self._monotonic()
            if now < self._look_up_after:
                return False
            self._look_up_after = now + KEY_COOLDOWN
            return True

    def _unless_nothing_is_known(self) -> Refusal:
        return TokenInvalid() if self.view.known else BackendUnavailable()

    def _ask(self, question: ApiTokenQuestion, key: bytes, now: float) -> Asking[Verdict]:
        app_id = question.app_id
        # What cannot be an API token costs no question, and no place among the refused.
        if not APP_ID.fullmatch(app_id) or not _API_TOKEN.fullmatch(question.api_token):
            raise TokenInvalid
        refused = self._refused.get(key)
        if refused is not None and self._holds(refused):
            raise TokenInvalid
        try:
            verdict = yield question
            if (
                not isinstance(verdict, Verdict)
                or verdict.how is not How.API_TOKEN
                or verdict.app_id != app_id
                or self._resource not in verdict.resources
            ):
                raise TokenInvalid  # noqa: TRY301 - an answer about something else is remembered like a bad one
        except TokenInvalid:
            self._refused.put(key, _Span(now + REFUSAL_CACHE_SECONDS, app_id, question.version))
            raise
        return verdict

    def _holds(self, span: _Span | None) -> bool:
        return span is None or (
            self.view.now() < span.until and self.view.version_of(span.app_id) == span.version
        )


def _digest(credential: credentials.Bearer | credentials.Basic) -> bytes:
    """The key of a credential in the caches.

    Of what was understood, not of the field: otherwise spaces and capitals would make any number of keys
    for one good credential, push others out, and ask the authority anew each time.
    """
    match credential:
        case credentials.Bearer(token):
            text = token
        case credentials.Basic(user, password):
            text = f"{user}:{password}"  # no token68 has a colon
    return _digest_text(text)


def _digest_text(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def run(decision: Decision, ask: Callable[[Question], Answer]) -> Admission:
    """Drive a decision in this thread.

    Raises:
        Refusal: The decision's.
    """
    if isinstance(decision, Admission):
        return decision
    try:
        question = next(decision)
        while True:
            try:
                answer = ask(question)
            except Refusal as refusal:
                question = decision.throw(refusal)
            else:
                question = decision.send(answer)
    except StopIteration as done:
        admission: Admission = done.value
        return admission


async def run_async(decision: Decision, ask: Callable[[Question], Awaitable[Answer]]) -> Admission:
    """Drive a decision in this task.

    Raises:
        Refusal: The decision's.
    """
    if isinstance(decision, Admission):
        return decision
    try:
        question = next(decision)
        while True:
            try:
                answer = await ask(question)
            except Refusal as refusal:
                question = decision.throw(refusal)
            else:
                question = decision.send(answer)
    except StopIteration as done:
        admission: Admission = done.value
        return admission
