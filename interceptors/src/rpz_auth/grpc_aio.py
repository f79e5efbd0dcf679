"""Admission in front of the handlers of `grpc.aio.server`.

Handlers keep their kind (coroutine, generator, `context.write`), which instrumentation relies on;
plain functions, which grpc runs in a thread, become coroutines here: only inside the call's own task
is it safe to ask grpc for the peer, as a call that has ended has none and takes the process with it.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio

from rpz_auth import grpc_aio_threads as threads
from rpz_auth.caller import CURRENT, Admission
from rpz_auth.errors import Internal, MethodUnknown, Refusal
from rpz_auth.grpc_handlers import behaviour_of
from rpz_auth.status import rpc_status

_log = logging.getLogger("rpz_auth")

Context = grpc.aio.ServicerContext[Any, Any]
Admit = Callable[[Context], Awaitable[Admission]]


def guard(handler: grpc.RpcMethodHandler[Any, Any] | None, admit: Admit) -> grpc.RpcMethodHandler[Any, Any]:
    """Put `admit` before a handler, or before the answer that there is none."""
    if handler is None:
        return grpc.stream_stream_rpc_method_handler(_refuse_unknown(admit))
    behaviour = behaviour_of(handler)
    one_message = not handler.request_streaming
    if not handler.response_streaming:
        if not inspect.iscoroutinefunction(behaviour):
            behaviour = threads.unary(behaviour)
        return grpc.stream_unary_rpc_method_handler(
            _coroutine(behaviour, admit, one_message=one_message),
            handler.request_deserializer,
            handler.response_serializer,
        )
    if inspect.iscoroutinefunction(behaviour):
        wrapped = _coroutine(behaviour, admit, one_message=one_message)
    else:
        if not inspect.isasyncgenfunction(behaviour):
            behaviour = threads.streaming(behaviour)
        wrapped = _generator(behaviour, admit, one_message=one_message)
    return grpc.stream_stream_rpc_method_handler(
        wrapped, handler.request_deserializer, handler.response_serializer
    )


def _coroutine(behaviour: Callable[..., Any], admit: Admit, *, one_message: bool) -> Callable[..., Any]:
    async def call(messages: AsyncIterator[Any], context: Context) -> Any:
        CURRENT.set(await _admit(admit, context))
        return await behaviour(await _read_one(context) if one_message else messages, context)

    return call


def _generator(behaviour: Callable[..., Any], admit: Admit, *, one_message: bool) -> Callable[..., Any]:
    async def call(messages: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        CURRENT.set(await _admit(admit, context))
        request = await _read_one(context) if one_message else messages
        async with contextlib.aclosing(behaviour(request, context)) as answers:
            async for answer in answers:
                yield answer

    return call


def _refuse_unknown(admit: Admit) -> Callable[..., Any]:
    async def call(_messages: AsyncIterator[bytes], context: Context) -> None:
        await _admit(admit, context)
        await _abort(context, MethodUnknown())

    return call


async def _admit(admit: Admit, context: Context) -> Admission:
    try:
        return await admit(context)
    except Refusal as refusal:
        await _abort(context, refusal)
    except Exception:  # noqa: BLE001 - whatever it is, the call must not pass
        # grpc.aio would send the exception's text to the client.
        _log.exception("rpz-auth: a call could not be decided")
        await _abort(context, Internal())


async def _abort(context: Context, refusal: Refusal) -> NoReturn:
    status = rpc_status(refusal)
    before = tuple(context.trailing_metadata() or ())
    await context.abort(status.code, status.details, (*before, *status.trailing_metadata))


async def _read_one(context: Context) -> Any:
    message = await context.read()
    if message is grpc.aio.EOF:
        await context.abort(grpc.StatusCode.INTERNAL, "the request has no message")
    return message
