"""Plain functions as handlers of `grpc.aio.server`: run in a thread, with the caller and a safe context.

grpc would run them in a thread too, but without context variables, and with a context whose `peer()`
ends the process when the call has ended meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
_END = object()


def unary(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Make a coroutine of a plain function with one answer."""

    async def call(request: Any, context: Context) -> Any:
        run = _thread_runner()
        return await run(behaviour, _for_thread(request), ThreadContext(context))

    return call


def streaming(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Make an asynchronous generator of a plain function whose answer is an iterator."""

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        run = _thread_runner()
        answers = await run(behaviour, _for_thread(request), ThreadContext(context))
        try:
            while (answer := await run(next, answers, _END)) is not _END:
                yield answer
        finally:
            if hasattr(answers, "close"):
                await run(answers.close)

    return call


def _thread_runner() -> Callable[..., Coroutine[Any, Any, Any]]:
    """Run functions one after the other in threads that share this task's context variables."""
    loop = asyncio.get_running_loop()
    variables = contextvars.copy_context()

    async def run(function: Callable[..., T], *arguments: Any) -> T:
        return await loop.run_in_executor(None, functools.partial(variables.run, function, *arguments))

    return run


def _for_thread(request: Any) -> Any:
    """Turn a stream of messages into one that a thread can read; leave a message as it is."""
    if not hasattr(request, "__aiter__"):
        return request
    loop = asyncio.get_running_loop()

    def messages() -> Iterator[Any]:
        stream = aiter(request)
        while (message := asyncio.run_coroutine_threadsafe(_next(stream), loop).result()) is not _END:
            yield message

    return messages()


async def _next(stream: AsyncIterator[Any]) -> Any:
    return await anext(stream, _END)


class ThreadContext(grpc.ServicerContext):
    """What a thread may use of an asyncio call: facts read beforehand, and acts done in the loop."""

    def __init__(self, context: Context) -> None:
        """Read the facts of the connection now, in the call's own task."""
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._peer = context.peer()
        self._identities = context.peer_identities()
        self._identity_key = context.peer_identity_key()
        self._auth_context = context.auth_context()

    def _in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def invocation_metadata(self) -> Any:
        """As received."""
        return self._context.invocation_metadata()

    def peer(self) -> str:
        """As read when the call began."""
        return self._peer

    def peer_identities(self) -> Any:
        """As read when the call began."""
        return self._identities

    def peer_identity_key(self) -> str | None:
        """As read when the call began."""
        return self._identity_key

    def auth_context(self) -> Any:
        """As read when the call began."""
        return self._auth_context

    def is_active(self) -> bool:
        """Tell whether the call has not ended."""
        return not self._context.done()

    def time_remaining(self) -> Any:
        """Seconds until the client's deadline, None without one."""
        return self._context.time_remaining()

    def cancel(self) -> NoReturn:
        """End the call with CANCELLED."""
        self.abort(grpc.StatusCode.CANCELLED, "")

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call back when the call has ended."""
        self._loop.call_soon_threadsafe(lambda: self._context.add_done_callback(lambda _: callback()))  # type: ignore[arg-type] # the stub names a protocol for this very function
        return True

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send it now."""
        self._in_loop(self._context.send_initial_metadata(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Send it at the end."""
        self._context.set_trailing_metadata(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """What was set."""
        return self._context.trailing_metadata()

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with an error."""
        self._in_loop(self._context.abort(code, details))
        raise AssertionError("abort returned")

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a rich error."""
        self._in_loop(self._context.abort(status.code, status.details, tuple(status.trailing_metadata or ())))
        raise AssertionError("abort returned")

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status of a call that ends by returning."""
        self._context.set_code(code)

    def set_details(self, details: str) -> None:
        """Set the text of a call that ends by returning."""
        self._context.set_details(details)

    def code(self) -> Any:
        """What was set."""
        return self._context.code()

    def details(self) -> Any:
        """What was set."""
        return self._context.details()

    def set_compression(self, compression: grpc.Compression) -> None:
        """Compress the answers."""
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        """Do not compress the next answer."""
        self._context.disable_next_message_compression()
