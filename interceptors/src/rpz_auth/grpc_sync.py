"""Admission in front of the handlers of `grpc.server`.

Every handler is presented to grpc as one that reads a stream of bytes: a unary one would wait for its
message while it holds a thread of the pool, and have it parsed, for callers that are then refused, too.

grpc runs each call in context variables of its own, so that what is set here ends with the call.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from rpz_auth.caller import CURRENT, Admission
from rpz_auth.errors import Internal, MethodUnknown, Refusal
from rpz_auth.grpc_handlers import NO_MESSAGE, UNREADABLE_MESSAGE, behaviour_of, certain, deserialiser_of
from rpz_auth.status import rpc_status

_log = logging.getLogger("rpz_auth")
_NOTHING = object()

Admit = Callable[[grpc.ServicerContext], Admission]
Read = Callable[[Iterator[bytes], grpc.ServicerContext], Any]


def guard(handler: grpc.RpcMethodHandler[Any, Any] | None, admit: Admit) -> grpc.RpcMethodHandler[Any, Any]:
    """Put `admit` before a handler, or before the answer that there is none."""
    if handler is None:
        return grpc.stream_stream_rpc_method_handler(_refuse_unknown(admit))
    behaviour = behaviour_of(handler)
    read = functools.partial(
        _all_messages if handler.request_streaming else _one_message, deserialiser_of(handler)
    )
    if not handler.response_streaming:
        return grpc.stream_unary_rpc_method_handler(
            _unary(behaviour, admit, read), None, handler.response_serializer
        )
    wrap = _callback if getattr(behaviour, "experimental_non_blocking", False) else _streaming
    return grpc.stream_stream_rpc_method_handler(
        wrap(behaviour, admit, read), None, handler.response_serializer
    )


def _unary(behaviour: Callable[..., Any], admit: Admit, read: Read) -> Callable[..., Any]:
    def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        CURRENT.set(_admit(admit, context))
        return behaviour(read(messages, context), context)

    return call


def _streaming(behaviour: Callable[..., Any], admit: Admit, read: Read) -> Callable[..., Any]:
    def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        CURRENT.set(_admit(admit, context))
        yield from behaviour(read(messages, context), context)

    return call


def _callback(behaviour: Callable[..., Any], admit: Admit, read: Read) -> Callable[..., Any]:
    """For handlers that answer by callback and hold no thread meanwhile, as health's `Watch` does."""

    def call(messages: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
        CURRENT.set(_admit(admit, context))
        behaviour(read(messages, context), context, send)

    vars(call).update(vars(behaviour))  # grpc looks for experimental_… on the function that it calls
    return call


def _refuse_unknown(admit: Admit) -> Callable[..., Iterator[Any]]:
    def call(_messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        _admit(admit, context)
        _abort(context, MethodUnknown())

    return call


def _admit(admit: Admit, context: grpc.ServicerContext) -> Admission:
    try:
        return certain(admit(context))
    except Refusal as refusal:
        _abort(context, refusal)
    except Exception:  # noqa: BLE001 - whatever it is, the call must not pass
        _log.exception("rpz-auth: a call could not be decided")
        _abort(context, Internal())


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    status = rpc_status(refusal)
    # abort_with_status would replace what an outer interceptor has set.
    before = tuple(context.trailing_metadata() or ())
    context.set_trailing_metadata((*before, *status.trailing_metadata))
    context.abort(status.code, status.details)


def _all_messages(
    parse: Callable[[bytes], Any], messages: Iterator[bytes], context: grpc.ServicerContext
) -> Iterator[Any]:
    return map(functools.partial(_parse, parse, context), messages)


def _one_message(
    parse: Callable[[bytes], Any], messages: Iterator[bytes], context: grpc.ServicerContext
) -> Any:
    raw = next(messages, _NOTHING)
    if not isinstance(raw, bytes):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_MESSAGE)
    return _parse(parse, context, raw)


def _parse(parse: Callable[[bytes], Any], context: grpc.ServicerContext, raw: bytes) -> Any:
    try:
        return parse(raw)
    except Exception:  # noqa: BLE001 - each serialiser raises its own
        context.abort(grpc.StatusCode.INTERNAL, UNREADABLE_MESSAGE)
