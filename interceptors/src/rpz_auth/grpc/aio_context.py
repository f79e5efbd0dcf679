"""The context that handlers of `grpc.aio.server` get behind the interceptor.

grpc ends the process (SIGSEGV) when it is asked for the peer of a call that has ended, and then reads
the call's metadata from memory that is somebody else's by now. Handlers do get that far: a client can
let its deadline pass at any moment, after which plain functions still run in their threads, and
asynchronous generators still run their `finally`. So the facts of the call are read when it begins, and
nothing reaches grpc when it has ended. Only what few ask for, the authentication context, is read when it
is asked for where the handler cannot outlive its call; a task that such a handler leaves behind is told so.

It is also where a running stream ends when its credential does: no message passes any more, the client is
told at once, whatever the handler is doing, and then the handler is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeAlias

import grpc
import grpc.aio

from rpz_auth.caller import Caller
from rpz_auth.errors import Refusal
from rpz_auth.grpc.handlers import NO_MESSAGE, UNREADABLE_MESSAGE
from rpz_auth.service.running import End, Lease
from rpz_auth.status import rpc_status

NativeContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in the stubs only
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

_LAST_WORD = 1.0
"""Seconds that a client which reads nothing may hold up the status that ends its stream."""


class CallContext:
    """A `grpc.aio.ServicerContext` for as long as the call lasts, and harmless afterwards."""

    _identity_key: str | None = None
    _auth_context: Any = None
    _lease: Lease | None = None
    _refused = False
    _sending = False
    _sent: asyncio.Future[None] | None = None
    _expulsion: asyncio.Task[None] | None = None

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
        """As read when it was first asked for, while the call lasted."""
        if self._identity_key is None and self._identities is not None:
            self._identity_key = self._live().peer_identity_key()
        return self._identity_key

    def auth_context(self) -> Any:
        """As read when it was first asked for, while the call lasted."""
        if self._auth_context is None:
            self._auth_context = self._live().auth_context()
        return self._auth_context

    def read_facts(self) -> None:
        """Read the facts that few ask for, and late: for handlers that may go on after the call's end."""
        self.peer_identity_key()
        self.auth_context()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back, with this context, when the call has ended."""
        self._context.add_done_callback(lambda _: callback(self))  # type: ignore[arg-type] # the stub names a protocol for this very function

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        raw = await self._live().read()
        if self._lease is not None:
            await self.check()
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
        await self.check()
        with self.sending():
            await self._live().write(message)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send it now."""
        with self.sending():
            await self._live().send_initial_metadata(initial_metadata)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[Any, ...] = ()
    ) -> None:
        """End the call with an error; always raises."""
        await self._live().abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> None:
        """End the call with a rich error; always raises."""
        await self.abort(status.code, status.details, tuple(status.trailing_metadata or ()))

    async def refuse(self, refusal: Refusal) -> None:
        """End the call with a refusal; always raises."""
        if self._refused:
            await self._live().write(b"")  # raises what grpc expects from a call that was aborted
        self._refused = True
        status, live = rpc_status(refusal), self._live()
        # abort would replace what an outer interceptor has set.
        before = tuple(live.trailing_metadata() or ())
        await live.abort(status.code, status.details, (*before, *status.trailing_metadata))

    async def hold(self, lease: Callable[[Caller, End], Lease], caller: Caller) -> None:
        """Go on for as long as a lease does; it is released with the call."""
        loop = asyncio.get_running_loop()

        def end(refusal: Refusal) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its calls with it
                loop.call_soon_threadsafe(self._expel, refusal)

        try:
            self._lease = lease(caller, end)
        except Refusal as refusal:
            await self.refuse(refusal)

    def release(self) -> None:
        """Have nobody end the call any more: it is about to end by itself."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Have the end of the call wait, though not for long, while something is being sent."""
        self._sending = True
        try:
            yield
        finally:
            self._sending = False
            if self._sent is not None and not self._sent.done():
                self._sent.set_result(None)

    async def check(self) -> None:
        """Let a message pass; ends the call when it must not."""
        if self._lease is not None:
            try:
                self._lease.check()
            except Refusal as refusal:
                await self.refuse(refusal)

    def _expel(self, refusal: Refusal) -> None:
        if self._lease is not None and self._task is not None and not self._task.done():
            self._expulsion = asyncio.create_task(self._end(self._task, refusal))

    async def _end(self, task: asyncio.Task[Any], refusal: Refusal) -> None:
        # A status that overtakes the first answer, and with it the initial metadata, would be lost.
        if self._sending:
            self._sent = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._sent], timeout=_LAST_WORD)
        if self._lease is None:
            return  # it has ended by itself, and grpc tells the client
        if self._refused:  # at a message of its own, just now
            await asyncio.wait([task], timeout=_LAST_WORD)
        else:
            # First the client: how long the handler takes to end is the handler's affair.
            with contextlib.suppress(Exception):  # among them the one that abort ends a handler with
                await asyncio.wait_for(self.refuse(refusal), _LAST_WORD)
        task.cancel()

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
