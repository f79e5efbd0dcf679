"""Refusals of flows, and faults, turned into gRPC status."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
import rpz_auth
import structlog
from google.protobuf.message import DecodeError
from rpz_auth.errors import Internal, Reason, Refusal
from rpz_auth.status import rpc_status

from rpz_auth_server.domain.refusal import NotImplementedYet, RequestInvalid
from rpz_auth_server.flows.limits import Limiter
from rpz_auth_server.transport.log_budget import FAULT_SECONDS, FAULTS, LogBudget

_log = structlog.get_logger("rpz_auth_server")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
_Refuse: TypeAlias = Callable[[Any, Exception], Awaitable[None]]


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Stands right before the handlers; whatever leaves it is a status of ours with a fixed text."""

    def __init__(self, limiter: Limiter) -> None:
        """Have wrapped nothing yet; `limiter` counts, and holds guessers back."""
        self._limiter = limiter
        self._faults = LogBudget(_log, records=FAULTS, seconds=FAULT_SECONDS)
        self.took: Callable[[str, float], None] | None = None
        """Told of each unary call's method and seconds, if anybody wants to know before the first."""
        self.refused: Callable[[Reason], None] | None = None
        """Told of each refusal's reason, if anybody wants to know."""
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap a handler once; a method's is the same for every call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if method not in self._wrapped:
            wrapped = _wrap(handler, self._refuse)
            if self.took is not None and wrapped.unary_unary is not None:
                wrapped = _timed(wrapped, functools.partial(self.took, method.rpartition("/")[2]))
            self._wrapped[method] = wrapped
        return self._wrapped[method]

    async def _refuse(self, context: Any, error: Exception) -> None:
        match error:
            case grpc.aio.AbortError():
                raise error
            case Refusal():
                refusal = error
            case NotImplementedError():  # from the generated base of a service
                refusal = NotImplementedYet()
            case _:
                if self._faults.take():
                    _log.error("a call failed", exc_info=error)
                refusal = Internal()
        if self.refused is not None:
            self.refused(refusal.reason)
        with contextlib.suppress(LookupError):  # what OAuth 2 clients fail is counted where they authenticate
            self._limiter.refusals.record(refusal.reason, rpz_auth.caller().app_id)
        await self._limiter.hold_back(refusal, rpz_auth.peer())
        status = rpc_status(refusal)
        await context.abort(status.code, status.details, status.trailing_metadata)


def _wrap(handler: Handler, refuse: _Refuse) -> Handler:
    """Wrap one of the shapes that the authority's methods have, those of health and reflection included."""
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream
    serialise = handler.response_serializer
    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(
            _stream(behaviour, _unchanged, refuse), handler.request_deserializer, serialise
        )
    read = _reader(handler.request_deserializer or _unchanged)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(_stream(behaviour, read, refuse), None, serialise)
    return grpc.unary_unary_rpc_method_handler(_unary(behaviour, read, refuse), None, serialise)


def _timed(handler: Handler, took: Callable[[float], None]) -> Handler:
    behaviour: Any = handler.unary_unary

    async def call(request: Any, context: Any) -> Any:
        began = time.perf_counter()
        try:
            return await behaviour(request, context)
        finally:
            took(time.perf_counter() - began)

    return grpc.unary_unary_rpc_method_handler(
        call, handler.request_deserializer, handler.response_serializer
    )


def _reader(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:  # also for text that is not UTF-8
            raise RequestInvalid("the request is not a message of this method") from None

    return read


def _unchanged(request: Any) -> Any:
    return request


def _unary(behaviour: Callable[..., Any], read: Callable[[Any], Any], refuse: _Refuse) -> Callable[..., Any]:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await behaviour(read(request), context)
        except Exception as error:  # noqa: BLE001 - grpc.aio would send its text to the client
            await refuse(context, error)

    return call


def _stream(behaviour: Callable[..., Any], read: Callable[[Any], Any], refuse: _Refuse) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(behaviour):  # it writes its answers to the context, as health does
        return _unary(behaviour, read, refuse)

    async def call(request: Any, context: Any) -> Any:
        try:
            async for answer in behaviour(read(request), context):
                yield answer
        except Exception as error:  # noqa: BLE001 - grpc.aio would send its text to the client
            await refuse(context, error)

    return call
