"""Repeats a unary call once, with a new token, after a service refused one that had become stale."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from rpz_auth.client.renewing import RenewingToken
from rpz_auth.errors import Reason
from rpz_auth.status import reason_in, reason_of

# Only what an interceptor of ours decided before the handler: nothing has happened then. A handler may have
# reasons of its own for UNAUTHENTICATED, after it has done half of its work.
_STALE = frozenset({Reason.TOKEN_INVALID, Reason.TOKEN_EXPIRED})
_FAILED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE})
"""The second is what grpc makes of a call for which there was no token to send."""


class StaleTokenRetry(grpc.UnaryUnaryClientInterceptor):
    """For `grpc.intercept_channel`, over a channel that sends `credential`.

    A call that failed because the grant has ended raises `SignInRequired`. A call by `.future()` that
    has no answer yet is left as it is: waiting for the answer would block.
    """

    def __init__(self, credential: RenewingToken) -> None:
        """Watch over calls with this credential."""
        self._credential = credential

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Called by grpc for each call."""
        sent = self._credential.peek()
        call = continuation(client_call_details, request)
        if not call.done() or call.code() not in _FAILED:
            return call
        again = sent is not None and reason_of(call) in _STALE and self._credential.replace(sent)
        self._credential.check()
        return continuation(client_call_details, request) if again else call


class StaleTokenRetryAsync(grpc.aio.UnaryUnaryClientInterceptor):
    """The same for `rpz_auth.aio.secure_channel(…, interceptors=[…])`."""

    def __init__(self, credential: RenewingToken) -> None:
        """Watch over calls with this credential."""
        self._credential = credential

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Called by grpc for each call."""
        sent = self._credential.peek()
        call = await continuation(client_call_details, request)
        if await call.code() not in _FAILED:
            return call
        again = (
            sent is not None
            and reason_in(await call.trailing_metadata() or ()) in _STALE
            and await asyncio.to_thread(self._credential.replace, sent)
        )
        self._credential.check()
        return await continuation(client_call_details, request) if again else call
