"""The context that handlers of `grpc.aio.server` get behind the interceptor.

grpc ends the process (SIGSEGV) when it is asked for the peer of a call that has ended, and then reads
the call's metadata from memory that is somebody else's by now. Handlers do get that far: a client can
let its deadline pass at any moment, after which plain functions still run in their threads, and
asynchronous generators still run their `finally`. So the facts of the call are read when it begins, and
nothing reaches grpc when it has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

from rpz_auth.grpc_handlers import NO_MESSAGE, UNREADABLE_MESSAGE

NativeContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


class CallContext:
    """A `grpc.aio.ServicerContext` for as long as the call lasts, and harmless afterwards."""

    def __init__(self, context: NativeContext, parse: Callable[[bytes], Any]) -> None:
        """Read the facts of the connection; to be called in the call's own task.

        Args:
            context: grpc's.
            parse: Makes a message of the bytes that grpc reads.
        """
        self._context = context
        self._parse = parse
        # grpc lets go of the call only after this task is done.
        self._task = asyncio.current_task()
        self._metadata: Metadata = tuple(context.invocation_metadata() or ())
        self._peer = context.peer()
        self._identities = context.peer_identities()
        self._identity_key = context.peer_identity_key()
        self._auth_context = context.auth_context()

    def __getattr__(self, name: str) -> Any:
        """What needs no call: code, details, trailing metadata, compression, times."""
        return getattr(self._context, name)

    def invocation_metadata(self) -> Metadata:
        """As read when the call began."""
        return self._metadata

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

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back, with this context, when the call has ended."""
        self._context.add_done_callback(lambda _: callback(self))  # type: ignore[arg-type] # the stub names a protocol for this very function

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        raw = await self._live().read()
        if not isinstance(raw, bytes):
            return raw
        try:
            return self._parse(raw)
        except Exception:  # noqa: BLE001 - each serialiser raises its own
            await self.abort(grpc.StatusCode.INTERNAL, UNREADABLE_MESSAGE)

    async def read_one(self) -> Any:
        """The message of a call that has one."""
        message = await self.read()
        if message is grpc.aio.EOF:
            await self.abort(grpc.StatusCode.UNIMPLEMENTED, NO_MESSAGE)
        return message

    async def write(self, message: Any) -> None:
        """Send an answer."""
        await self._live().write(message)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send it now."""
        await self._live().send_initial_metadata(initial_metadata)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[Any, ...] = ()
    ) -> None:
        """End the call with an error; always raises."""
        await self._live().abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> None:
        """End the call with a rich error; always raises."""
        await self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    def _live(self) -> NativeContext:
        if self._task is None or self._task.done():
            raise grpc.aio.UsageError("the call has ended")
        return self._context


class Messages:
    """The messages of a call as handlers iterate over them."""

    def __init__(self, context: CallContext) -> None:
        """Read from a call."""
        self._context = context

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message
