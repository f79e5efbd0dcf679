"""Bounds the time that a call may take, whatever its client says or does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

import grpc
import grpc.aio
from rpz_auth.errors import BackendUnavailable
from rpz_auth.status import rpc_status

LONGEST = 30.0
"""Seconds from the head of a call to its answer; far more than anything takes."""
LONGEST_STREAM = 300.0
"""Seconds that a stream of a caller who need not be known may take; clients open it again."""
MOST_STREAMS = 1000
"""Such streams at once, of all callers together."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only


class PatienceInterceptor(grpc.aio.ServerInterceptor):
    """Stands before authentication, which for OAuth 2 clients is in a message that may never come.

    Other streams than the public ones are not its affair: only callers that are known get any, and their
    streams end with their credentials.
    """

    def __init__(self, longest: float = LONGEST, *, public_streams: Collection[str] = ()) -> None:
        """Have wrapped nothing yet.

        Args:
            longest: Seconds for a unary call.
            public_streams: The public methods that stream their answers.
        """
        self._longest = longest
        self._public_streams = public_streams
        self._streams = 0
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap a handler once; a method's is the same for every call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # The guard in front of a method reads its one message from a stream.
        if handler is None or (handler.stream_unary is None and method not in self._public_streams):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(handler))
        return known[1]

    def _wrap(self, handler: Handler) -> Handler:
        if handler.stream_unary is None:
            return grpc.stream_stream_rpc_method_handler(
                self._counted(_within(LONGEST_STREAM, handler.stream_stream)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.stream_unary_rpc_method_handler(
            _within(self._longest, handler.stream_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _counted(self, behaviour: Any) -> Any:
        async def call(messages: Any, context: Any) -> Any:
            if self._streams >= MOST_STREAMS:
                # On this status clients do without health; on any other they would call nothing more.
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "too many streams; ask without one")
            self._streams += 1
            try:
                return await behaviour(messages, context)
            finally:
                self._streams -= 1

        return call


def _within(seconds: float, behaviour: Any) -> Any:
    async def call(messages: Any, context: Any) -> Any:
        try:
            try:
                async with asyncio.timeout(seconds) as patience:
                    return await behaviour(messages, context)
            except TimeoutError:
                if not patience.expired():
                    raise
                late = rpc_status(BackendUnavailable(f"the call was not complete within {seconds:g} seconds"))
                await context.abort(late.code, late.details, late.trailing_metadata)
        except grpc.aio.AbortError as error:
            # grpc keeps the exception with the call. By its traceback it would keep all that the call has
            # used, the call itself included, until the garbage collector comes by: in a flood of guesses, for
            # hundreds of milliseconds at a time.
            del messages, context
            error.__context__ = None
            raise error.with_traceback(None) from None

    return call
