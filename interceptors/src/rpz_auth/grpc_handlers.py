"""What the drivers of both stacks need to know of grpc's handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc


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
