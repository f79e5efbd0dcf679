"""What the drivers of both stacks need to know of grpc's handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from rpz_auth.caller import Admission

NO_MESSAGE = "the method takes exactly one request message"
"""Goes with UNIMPLEMENTED, as grpc's table of status codes has it for "request cardinality violation"."""

UNREADABLE_MESSAGE = "a request message could not be read"
"""Goes with INTERNAL, as that table has it for "error parsing request proto"."""


def behaviour_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
    """The function behind a handler; its shape is told by `request_streaming` and `response_streaming`."""
    shapes: dict[tuple[bool, bool], Any] = {
        (False, False): handler.unary_unary,
        (False, True): handler.unary_stream,
        (True, False): handler.stream_unary,
        (True, True): handler.stream_stream,
    }
    behaviour: Callable[..., Any] = shapes[handler.request_streaming, handler.response_streaming]
    return behaviour


def deserialiser_of(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[[bytes], Any]:
    """What makes a message of the bytes that travelled; the bytes themselves where a handler takes those."""
    return handler.request_deserializer or (lambda raw: raw)


def certain(admission: object) -> Admission:
    """Let pass an admission and nothing else, least of all what a stray StopIteration carried.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(admission, Admission):
        raise TypeError(f"a decision ended with {type(admission).__name__} in place of an admission")
    return admission
