"""Refusals of flows, and faults, turned into gRPC status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from rpz_auth.errors import Internal, Refusal
from rpz_auth.status import rpc_status

from rpz_auth_server.domain.refusal import NotImplementedYet

_log = structlog.get_logger("rpz_auth_server")


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Stands right before the handlers; whatever leaves it is a status of ours with a fixed text."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the two shapes that the authority's methods have: one answer, or a stream of them."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _stream(handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return handler


def _unary(behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except Exception as error:  # noqa: BLE001 - grpc.aio would send its text to the client
            await _refuse(context, error)

    return call


def _stream(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        try:
            async for answer in behaviour(request, context):
                yield answer
        except Exception as error:  # noqa: BLE001 - grpc.aio would send its text to the client
            await _refuse(context, error)

    return call


async def _refuse(context: Any, error: Exception) -> None:
    match error:
        case grpc.aio.AbortError():
            raise error
        case Refusal():
            refusal = error
        case NotImplementedError():  # from the generated base of a service
            refusal = NotImplementedYet()
        case _:
            _log.error("a call failed", exc_info=error)
            refusal = Internal()
    status = rpc_status(refusal)
    await context.abort(status.code, status.details, status.trailing_metadata)
