"""Plain functions as handlers of `grpc.aio.server`: run in threads, with the caller and a safe context.

grpc would run them in threads too, but without context variables and with a context that can end the
process. They run in the loop's default executor; a `migration_thread_pool` that a server was given is
not to be seen from here.

A call lasts as long as a function of it runs: when the client goes away, its task waits for the thread.
So a generator is never closed while it runs, and limits on concurrent calls count what is really busy.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio

from rpz_auth.grpc.aio_context import CallContext, Messages
from rpz_auth.grpc.aio_thread_context import ThreadContext

T = TypeVar("T")

_END = object()


def unary(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Make a coroutine of a plain function with one answer."""

    async def call(request: Any, context: CallContext) -> Any:
        worker = _Worker(context)
        try:
            return await worker.run(worker.begin, behaviour, request)
        finally:
            worker.context.end()

    return call


def streaming(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Make an asynchronous generator of a plain function whose answer is an iterator."""

    async def call(request: Any, context: CallContext) -> AsyncIterator[Any]:
        worker = _Worker(context)
        answers: Any = None
        try:
            answers = await worker.run(worker.begin, behaviour, request)
            while (answer := await worker.run(next, answers, _END)) is not _END:
                yield answer
        finally:
            worker.context.end()
            if hasattr(answers, "close"):
                await worker.run(answers.close)

    return call


class _Worker:
    """Runs functions one after the other, in threads that share the context variables of one call."""

    def __init__(self, context: CallContext) -> None:
        self.context = ThreadContext(context)
        self._loop = asyncio.get_running_loop()
        self._variables = contextvars.copy_context()

    def begin(self, behaviour: Callable[..., Any], request: Any) -> Any:
        """Call a handler; to be run in a thread, which may have become free only after the call's end."""
        if self.context.is_active():
            return behaviour(
                _messages(self.context) if isinstance(request, Messages) else request, self.context
            )
        return None

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function; returns or raises only when it has."""
        thread = self._loop.run_in_executor(
            None, functools.partial(self._variables.run, function, *arguments)
        )
        cancelled = None
        while not thread.done():
            try:
                await asyncio.wait([thread])
            except asyncio.CancelledError as error:
                cancelled = error
                self.context.end()
        if cancelled is not None:
            thread.exception()  # asked for, or asyncio would report it as forgotten
            raise cancelled
        return thread.result()


def _messages(context: ThreadContext) -> Iterator[Any]:
    while (message := context.read()) is not grpc.aio.EOF:
        yield message
    # As on the sync stack, and like there only if grpc has told of the cancellation by now: of the end of
    # a stream alone it cannot be seen whether the client finished it or went away.
    if not context.is_active():
        raise grpc.RpcError
