"""Bounds the time that a call may take, whatever its client says or does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from rpz_auth.errors import BackendUnavailable
from rpz_auth.status import rpc_status

LONGEST = 30.0
"""Seconds from the head of a call to its answer; far more than anything takes."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only


class PatienceInterceptor(grpc.aio.ServerInterceptor):
    """Stands before authentication, which for OAuth 2 clients is in a message that may never come.

    Streamed answers are not its affair: only callers that are known get any, and their streams end with
    their credentials.
    """

    def __init__(self, longest: float = LONGEST) -> None:
        """Have wrapped nothing yet."""
        self._longest = longest
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap a handler once; a method's is the same for every call."""
        handler = await continuation(handler_call_details)
        # The guard in front of a method reads its one message from a stream.
        if handler is None or handler.stream_unary is None:
            return handler
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(handler))
        return known[1]

    def _wrap(self, handler: Handler) -> Handler:
        behaviour: Any = handler.stream_unary

        async def call(messages: Any, context: Any) -> Any:
            try:
                async with asyncio.timeout(self._longest) as patience:
                    return await behaviour(messages, context)
            except TimeoutError:
                if not patience.expired():
                    raise
                status = rpc_status(
                    BackendUnavailable(f"the call was not complete within {self._longest:g} seconds")
                )
                await context.abort(status.code, status.details, status.trailing_metadata)

        return grpc.stream_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )
