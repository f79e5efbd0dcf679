"""Admission in front of the handlers of `grpc.aio.server`.

Handlers keep their kind (coroutine, generator, `context.write`), which instrumentation relies on;
plain functions, which grpc runs in a thread, become coroutines and generators here. Calls that stream
go on for as long as their credential holds; a unary one whose message is there is let finish.
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from rpz_auth.caller import CURRENT, Admission, Caller
from rpz_auth.errors import Internal, MethodUnknown, Refusal
from rpz_auth.grpc import aio_threads as threads
from rpz_auth.grpc.aio_context import CallContext, Messages, NativeContext
from rpz_auth.grpc.handlers import behaviour_of, certain, deserialiser_of
from rpz_auth.service.held_back import is_late
from rpz_auth.service.running import End, Lease

_log = logging.getLogger("rpz_auth")

Admit = Callable[[CallContext], Awaitable[Admission]]
Parse = Callable[[bytes], Any]
Enter = Callable[[CallContext, Caller, End], Lease]
Begin = Callable[[NativeContext], Awaitable[tuple[Any, CallContext]]]


def guard(
    handler: grpc.RpcMethodHandler[Any, Any] | None, admit: Admit, enter: Enter
) -> grpc.RpcMethodHandler[Any, Any]:
    """Put `admit` before a handler, or before the answer that there is none; `enter` leases streams."""
    if handler is None:
        return grpc.stream_stream_rpc_method_handler(_refuse_unknown(admit))
    behaviour = behaviour_of(handler)
    begin = _begin(handler, admit, enter)
    if not handler.response_streaming:
        if not inspect.iscoroutinefunction(behaviour):
            behaviour = threads.unary(behaviour)
        call = (
            _coroutine(behaviour, begin)
            if handler.request_streaming
            else _unary(behaviour, admit, deserialiser_of(handler))
        )
        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)
    if inspect.iscoroutinefunction(behaviour):
        wrapped = _coroutine(behaviour, begin)
    else:
        if not inspect.isasyncgenfunction(behaviour):
            behaviour = threads.streaming(behaviour)
        wrapped = _generator(behaviour, begin)
    return grpc.stream_stream_rpc_method_handler(wrapped, None, handler.response_serializer)


def _unary(behaviour: Callable[..., Any], admit: Admit, parse: Parse) -> Callable[..., Any]:
    async def call(_messages: AsyncIterator[bytes], native: NativeContext) -> Any:
        try:
            context = CallContext(native, parse)
            CURRENT.set(await _admit(admit, context))
            decided_at = time.monotonic()
            request = await context.read_one()
            if is_late(decided_at):
                CURRENT.set(await _admit(admit, context))
            return await behaviour(request, context)
        except grpc.aio.AbortError as error:
            del native, context
            raise _bare(error) from None

    return call


def _begin(handler: grpc.RpcMethodHandler[Any, Any], admit: Admit, enter: Enter) -> Begin:
    """Decide first, and only then read what the handler of a stream takes."""
    parse, one_message = deserialiser_of(handler), not handler.request_streaming

    async def begin(native: NativeContext) -> tuple[Any, CallContext]:
        context = CallContext(native, parse)
        admission = await _admit(admit, context)
        CURRENT.set(admission)
        context.read_facts()
        if admission.caller is not None:
            await context.hold(functools.partial(enter, context), admission.caller)
        try:
            return (await context.read_one() if one_message else Messages(context)), context
        except BaseException:
            context.release()
            raise

    return begin


def _coroutine(behaviour: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def call(_messages: AsyncIterator[bytes], context: NativeContext) -> Any:
        try:
            request, held = await begin(context)
        except grpc.aio.AbortError as error:
            del context
            raise _bare(error) from None
        try:
            answer = await behaviour(request, held)
            await held.check()
        finally:
            held.release()
        return answer

    return call


def _generator(behaviour: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def call(_messages: AsyncIterator[bytes], context: NativeContext) -> AsyncIterator[Any]:
        try:
            request, held = await begin(context)
        except grpc.aio.AbortError as error:
            del context
            raise _bare(error) from None
        answers = behaviour(request, held)
        admission = CURRENT.get()
        try:
            async for answer in answers:
                await held.check()
                with held.sending():
                    yield answer
        finally:
            held.release()
            # grpc drops the generator of a cancelled call; the loop then closes it in a task of its own.
            CURRENT.set(admission)
            await answers.aclose()

    return call


def _refuse_unknown(admit: Admit) -> Callable[..., AsyncIterator[Any]]:
    async def call(_messages: AsyncIterator[bytes], native: NativeContext) -> AsyncIterator[Any]:
        try:
            context = CallContext(native, bytes)
            await _admit(admit, context)
            await context.refuse(MethodUnknown())
        except grpc.aio.AbortError as error:
            del native, context
            raise _bare(error) from None
        yield  # makes it a generator: interceptors in front iterate over what streams, OpenTelemetry's too

    return call


def _bare(error: grpc.aio.AbortError) -> grpc.aio.AbortError:
    """What a call is ended by, without what it has used.

    grpc keeps the exception with the call. By its traceback it would keep all that the call has used, the
    call itself included, until the garbage collector comes by.
    """
    error.__context__ = None
    return error.with_traceback(None)


async def _admit(admit: Admit, context: CallContext) -> Admission:
    try:
        return certain(await admit(context))
    except Refusal as refusal:
        await context.refuse(refusal)
    except Exception:  # noqa: BLE001 - whatever it is, the call must not pass
        # grpc.aio would send the exception's text to the client.
        _log.exception("rpz-auth: a call could not be decided")
        await context.refuse(Internal())
    raise AssertionError("abort returned")
