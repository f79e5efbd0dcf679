"""The decision about one call: written once, driven by threads and by asyncio alike.

A decision is a generator. It yields a question only when it needs the authority, is sent the answer,
and returns the caller; on the warm path it yields nothing. It raises a `Refusal` for every input that
it does not let pass.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field

from rpz_auth import access_token, credentials
from rpz_auth.address import UNKNOWN, Peer, TrustedProxies, with_origin
from rpz_auth.cache import BoundedCache
from rpz_auth.caller import APP_ID, Admission, Caller, How, Verdict
from rpz_auth.errors import (
    CredentialsMissing,
    MethodUnknown,
    Refusal,
    ScopeInsufficient,
    TokenExpired,
    TokenInvalid,
)
from rpz_auth.policy import Demand, Policy
from rpz_auth.view import View

Metadata = Sequence[tuple[str, str | bytes]]

API_TOKEN_CACHE_SECONDS = 300.0
"""For how long a good answer about an API token is used, unless it is revoked or its App changes."""
REFUSAL_CACHE_SECONDS = 5.0
"""For how long a bad answer is used, unless the App changes."""
_EPSILON = 0.001
_CACHE_SIZE = 16_384
_REFUSAL_CACHE_SIZE = 4_096

_API_TOKEN = re.compile(r"rpzt_[A-Za-z0-9_-]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiTokenQuestion:
    """Is this API token good, and for what? The answer is a `Verdict`, or `TokenInvalid`."""

    app_id: str
    api_token: str = field(repr=False)
    peer: Peer = field(default=UNKNOWN, compare=False)
    """Who presents it. The answer does not depend on it; its App's owner will see it as *last used*."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of an answer: about an API token until a time, and until its App changes."""

    verdict: Verdict | None
    """None when it was refused."""
    until: float = math.inf
    app_id: str | None = None
    version: tuple[int, int] = (0, 0)


Decision = Generator[ApiTokenQuestion, Verdict, Caller]


class Decider:
    """Decides who may call, for one resource."""

    def __init__(
        self, view: View, *, issuer: str, resource: str, trusted_proxies: TrustedProxies | None = None
    ) -> None:
        """Decide by what `view` knows, for tokens of `issuer` that name `resource`."""
        self.view = view
        self._issuer = issuer
        self._resource = resource
        self._proxies = trusted_proxies or TrustedProxies(())
        self._verdicts: BoundedCache[_Kept] = BoundedCache(_CACHE_SIZE)
        self._refused: BoundedCache[_Kept] = BoundedCache(_REFUSAL_CACHE_SIZE)

    def decide(
        self, policy: Policy | None, metadata: Metadata, peer: Peer
    ) -> Generator[ApiTokenQuestion, Verdict, Admission]:
        """Decide about one call.

        Args:
            policy: Of the method; None for a method that is unknown or has none.
            metadata: As received, keys in lower case.
            peer: The other end of the connection.

        Raises:
            Refusal: Of any kind that `status.TABLE` maps; the call must not reach its handler.
        """
        peer = with_origin(self._proxies.resolve(peer, metadata), metadata)
        if policy is not None and policy.demand is not Demand.SCOPES:
            return Admission(peer, None)
        caller = yield from self._authenticate(metadata, peer)
        if policy is None:
            raise MethodUnknown
        if not policy.scopes <= caller.verdict.scopes:
            raise ScopeInsufficient(policy.scopes)
        return Admission(peer, caller)

    def _authenticate(self, metadata: Metadata, peer: Peer) -> Decision:
        value = credentials.find(metadata)
        if value is None:
            raise CredentialsMissing
        self.view.check_fresh()
        credential = credentials.parse(value)
        key = _digest(credential)
        kept = self._verdicts.get(key)
        if kept is not None and kept.verdict is not None and self._holds(kept):
            verdict = kept.verdict
        else:
            verdict = yield from self._verify(credential, key, peer)
        caller = Caller(verdict, peer)
        self._check(caller)
        return caller

    def recheck(self, caller: Caller) -> None:
        """Let a stream go on that was let begin.

        Raises:
            Refusal: Its credential has expired or was revoked, its App may not call any more (or not from
                there), or nobody can tell.
        """
        self.view.check_fresh()
        self._check(caller)

    def seconds_until_doubt(self, caller: Caller) -> float:
        """For how long nothing but a change can end a caller's stream."""
        return min(caller.verdict.expires_at, self.view.fresh_until + _EPSILON) - self.view.now()

    def _check(self, caller: Caller) -> None:
        if self.view.now() >= caller.verdict.expires_at:
            raise TokenExpired
        # On every call, cache or not: what was good a moment ago may have been revoked since.
        self.view.check(caller.verdict, caller.peer)

    def _verify(
        self, credential: credentials.Bearer | credentials.Basic, key: bytes, peer: Peer
    ) -> Generator[ApiTokenQuestion, Verdict, Verdict]:
        now = self.view.now()
        match credential:
            case credentials.Bearer(token):
                verdict = access_token.verify(
                    token, self.view.keys, issuer=self._issuer, resources={self._resource}, now=now
                )
                self._verdicts.put(key, _Kept(verdict))
            case credentials.Basic(user, password):
                # Read before the question: a change that passes the answer on its way makes it worthless.
                version = self.view.version_of(user)
                question = ApiTokenQuestion(user, password, peer)
                verdict = yield from self._ask(question, key, version, now)
                self._verdicts.put(key, _Kept(verdict, now + API_TOKEN_CACHE_SECONDS, user, version))
        return verdict

    def _ask(
        self, question: ApiTokenQuestion, key: bytes, version: tuple[int, int], now: float
    ) -> Generator[ApiTokenQuestion, Verdict, Verdict]:
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
                verdict.how is not How.API_TOKEN
                or verdict.app_id != app_id
                or self._resource not in verdict.resources
            ):
                raise TokenInvalid  # noqa: TRY301 - an answer about something else is remembered like a bad one
        except TokenInvalid:
            self._refused.put(key, _Kept(None, now + REFUSAL_CACHE_SECONDS, app_id, version))
            raise
        return verdict

    def _holds(self, kept: _Kept) -> bool:
        return kept.app_id is None or (
            self.view.now() < kept.until and self.view.version_of(kept.app_id) == kept.version
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
    return hashlib.sha256(text.encode()).digest()


def run(
    decision: Generator[ApiTokenQuestion, Verdict, Admission], ask: Callable[[ApiTokenQuestion], Verdict]
) -> Admission:
    """Drive a decision in this thread.

    Raises:
        Refusal: The decision's.
    """
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


async def run_async(
    decision: Generator[ApiTokenQuestion, Verdict, Admission],
    ask: Callable[[ApiTokenQuestion], Awaitable[Verdict]],
) -> Admission:
    """Drive a decision in this task.

    Raises:
        Refusal: The decision's.
    """
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
