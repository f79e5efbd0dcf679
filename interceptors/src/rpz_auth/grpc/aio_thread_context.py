"""The context that plain functions get as handlers of `grpc.aio.server`."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from rpz_auth.grpc.aio_context import CallContext

T = TypeVar("T")

_log = logging.getLogger("rpz_auth")


class ThreadContext(grpc.ServicerContext):
    """What a thread may use of an asyncio call: facts read beforehand, and acts done in the loop."""

    def __init__(self, context: CallContext) -> None:
        """Stand for a call; to be made in its loop."""
        context.read_facts()
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._callbacks: list[Callable[[], None]] | None = []
        self._ending = threading.Lock()

    def end(self) -> None:
        """Take note that the call is over, or given up by its client; a second time does nothing."""
        with self._ending:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:  # noqa: BLE001 - the others must still be called
                _log.exception("a handler's callback failed at the end of its call")

    def _in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        return self._in_loop(self._context.read())

    def invocation_metadata(self) -> Any:
        """As received."""
        return self._context.invocation_metadata()

    def peer(self) -> str:
        """As read when the call began."""
        return self._context.peer()

    def peer_identities(self) -> Any:
        """As read when the call began."""
        return self._context.peer_identities()

    def peer_identity_key(self) -> str | None:
        """As read when the call began."""
        return self._context.peer_identity_key()

    def auth_context(self) -> Any:
        """As read when the call began."""
        return self._context.auth_context()

    def is_active(self) -> bool:
        """Tell whether the call has not ended."""
        return self._callbacks is not None and not self._context.done()

    def time_remaining(self) -> Any:
        """Seconds until the client's deadline, None without one."""
        return self._context.time_remaining()

    def cancel(self) -> NoReturn:
        """End the call with CANCELLED."""
        self.abort(grpc.StatusCode.CANCELLED, "")

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call back, in the loop's thread, when the call has ended; False when it has already."""
        with self._ending:
            if self._callbacks is None:
                return False
            self._callbacks.append(callback)
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
        self._in_loop(self._context.abort_with_status(status))
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
