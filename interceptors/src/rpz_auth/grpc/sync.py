"""Admission in front of the handlers of `grpc.server`.

Every handler is presented to grpc as one that reads a stream of bytes: a unary one would wait for its
message while it holds a thread of the pool, and have it parsed, for callers that are then refused, too.

grpc runs each call in context variables of its own, so that what is set here ends with the call.

Calls that stream go on for as long as their credential holds; a unary one whose message is there is let
finish.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from rpz_auth.caller import CURRENT, Admission, Caller
from rpz_auth.errors import Internal, MethodUnknown, Refusal
from rpz_auth.grpc.handlers import NO_MESSAGE, UNREADABLE_MESSAGE, behaviour_of, certain, deserialiser_of
from rpz_auth.service.held_back import is_late
from rpz_auth.service.running import Lease
from rpz_auth.status import rpc_status

_log = logging.getLogger("rpz_auth")
_NOTHING = object()

Admit = Callable[[grpc.ServicerContext], Admission]
Parse = Callable[[bytes], Any]
Enter = Callable[[Caller, grpc.ServicerContext], Lease]
Begin = Callable[[grpc.ServicerContext], Callable[[], None]]
"""Decides, and gives what every message of the call has to pass."""
Read = Callable[[Iterator[bytes], grpc.ServicerContext, Callable[[], None]], Any]


def guard(
    handler: grpc.RpcMethodHandler[Any, Any] | None, admit: Admit, enter: Enter
) -> grpc.RpcMethodHandler[Any, Any]:
    """Put `admit` before a handler, or before the answer that there is none; `enter` leases streams."""
    if handler is None:
        return grpc.stream_stream_rpc_method_handler(_refuse_unknown(admit))
    behaviour, parse = behaviour_of(handler), deserialiser_of(handler)
    if not handler.request_streaming and not handler.response_streaming:
        return grpc.stream_unary_rpc_method_handler(
            _unary(behaviour, admit, parse), None, handler.response_serializer
        )
    begin = _begin(admit, enter)
    read = functools.partial(_all_messages if handler.request_streaming else _one_message, parse)
    if not handler.response_streaming:
        return grpc.stream_unary_rpc_method_handler(
            _answering(behaviour, begin, read), None, handler.response_serializer
        )
    wrap = _callback if getattr(behaviour, "experimental_non_blocking", False) else _streaming
    return grpc.stream_stream_rpc_method_handler(
        wrap(behaviour, begin, read), None, handler.response_serializer
    )


def _unary(behaviour: Callable[..., Any], admit: Admit, parse: Parse) -> Callable[..., Any]:
    def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        CURRENT.set(_admit(admit, context))
        decided_at = time.monotonic()
        request = _one_message(parse, messages, context)
        if is_late(decided_at):
            CURRENT.set(_admit(admit, context))
        return behaviour(request, context)

    return call


def _begin(admit: Admit, enter: Enter) -> Begin:
    def begin(context: grpc.ServicerContext) -> Callable[[], None]:
        admission = _admit(admit, context)
        CURRENT.set(admission)
        if admission.caller is None:
            return _pass
        try:
            lease = enter(admission.caller, context)
        except Refusal as refusal:
            _abort(context, refusal)
        if not context.add_callback(lease.release):
            lease.release()  # the client has gone already
        return functools.partial(_check, lease, context)

    return begin


def _pass() -> None:
    pass


def _check(lease: Lease, context: grpc.ServicerContext) -> None:
    try:
        lease.check()
    except Refusal as refusal:
        _abort(context, refusal)


def _answering(behaviour: Callable[..., Any], begin: Begin, read: Read) -> Callable[..., Any]:
    def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        check = begin(context)
        answer = behaviour(read(messages, context, check), context)
        check()
        return answer

    return call


def _streaming(behaviour: Callable[..., Any], begin: Begin, read: Read) -> Callable[..., Iterator[Any]]:
    def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        check = begin(context)
        for answer in behaviour(read(messages, context, check), context):
            check()
            yield answer

    return call


def _callback(behaviour: Callable[..., Any], begin: Begin, read: Read) -> Callable[..., Any]:
    """For handlers that answer by callback and hold no thread meanwhile, as health's `Watch` does.

    An interceptor in front that knows nothing of this, as OpenTelemetry's, gives no callback, and iterates.
    """
    iterate = _streaming(behaviour, begin, read)

    def call(
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        send: Callable[[Any], None] | None = None,
    ) -> Iterator[Any] | None:
        if send is None:
            return iterate(messages, context)
        check = begin(context)

        def checked_send(answer: Any) -> None:
            check()
            send(answer)

        behaviour(read(messages, context, check), context, checked_send)
        return None

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
    parse: Parse,
    messages: Iterator[bytes],
    context: grpc.ServicerContext,
    check: Callable[[], None],
) -> Iterator[Any]:
    def read(raw: bytes) -> Any:
        check()
        return _parse(parse, context, raw)

    return map(read, messages)


def _one_message(
    parse: Parse,
    messages: Iterator[bytes],
    context: grpc.ServicerContext,
    _check: Callable[[], None] = _pass,
) -> Any:
    raw = next(messages, _NOTHING)
    if not isinstance(raw, bytes):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_MESSAGE)
    return _parse(parse, context, raw)


def _parse(parse: Parse, context: grpc.ServicerContext, raw: bytes) -> Any:
    try:
        return parse(raw)
    except Exception:  # noqa: BLE001 - each serialiser raises its own
        context.abort(grpc.StatusCode.INTERNAL, UNREADABLE_MESSAGE)
