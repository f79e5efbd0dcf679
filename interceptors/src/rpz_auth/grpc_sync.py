"""Admission in front of the handlers of `grpc.server`.

Every handler is presented to grpc as one that reads a stream: a unary one would wait for its message
while it holds a thread of the pool, for callers that are then refused, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from rpz_auth.caller import CURRENT, Admission
from rpz_auth.errors import Internal, MethodUnknown, Refusal
from rpz_auth.grpc_handlers import behaviour_of
from rpz_auth.status import rpc_status

_log = logging.getLogger("rpz_auth")
_NOTHING = object()

Admit = Callable[[grpc.ServicerContext], Admission]


def guard(handler: grpc.RpcMethodHandler[Any, Any] | None, admit: Admit) -> grpc.RpcMethodHandler[Any, Any]:
    """Put `admit` before a handler, or before the answer that there is none."""
    if handler is None:
        return grpc.stream_stream_rpc_method_handler(_refuse_unknown(admit))
    wrap = _streaming if handler.response_streaming else _unary
    make = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(
        wrap(behaviour_of(handler), admit, one_message=not handler.request_streaming),
        handler.request_deserializer,
        handler.response_serializer,
    )


def _unary(behaviour: Callable[..., Any], admit: Admit, *, one_message: bool) -> Callable[..., Any]:
    def call(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
        token = CURRENT.set(_admit(admit, context))
        try:
            return behaviour(_read_one(messages, context) if one_message else messages, context)
        finally:
            CURRENT.reset(token)

    return call


def _streaming(behaviour: Callable[..., Any], admit: Admit, *, one_message: bool) -> Callable[..., Any]:
    def call(messages: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        token = CURRENT.set(_admit(admit, context))
        try:
            yield from behaviour(_read_one(messages, context) if one_message else messages, context)
        finally:
            CURRENT.reset(token)

    return call


def _refuse_unknown(admit: Admit) -> Callable[..., Iterator[Any]]:
    def call(_messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        _admit(admit, context)
        _abort(context, MethodUnknown())

    return call


def _admit(admit: Admit, context: grpc.ServicerContext) -> Admission:
    try:
        return admit(context)
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


def _read_one(messages: Iterator[Any], context: grpc.ServicerContext) -> Any:
    message = next(messages, _NOTHING)
    if message is _NOTHING:
        context.abort(grpc.StatusCode.INTERNAL, "the request has no message")
    return message
