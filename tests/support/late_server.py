"""An asyncio server whose handlers ask for their peer late, when their client may be gone.

Run as a program of its own, because a wrong one does not live to tell: `late_server.py guarded|naive`.
Prints its port and a credential as JSON, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import rpz_auth
from rpz_auth.testing import FakeAuthority

from support.grpc_servers import RESOURCE, SCOPE, Generic, Handler, Shape

STEPS = 10
STEP_SECONDS = 0.0003
HOLDING = ("plain", "generator", "coroutine", "async_generator", "writer", "background")


def ask(context: Any) -> str:
    """All that is read from the connection of a call."""
    context.auth_context()
    context.peer_identities()
    context.peer_identity_key()
    context.time_remaining()
    context.invocation_metadata()
    return str(context.peer())


class Held:
    """Handlers that go on only when they are told to, after their client went away."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()
        self.asked = threading.Event()
        self.background: set[asyncio.Task[None]] = set()

    def handlers(self) -> dict[str, Handler]:
        return {
            "plain": Shape.UNARY_UNARY.handler(self.plain),
            "generator": Shape.UNARY_STREAM.handler(self.generator),
            "coroutine": Shape.UNARY_UNARY.handler(self.coroutine),
            "async_generator": Shape.UNARY_STREAM.handler(self.async_generator),
            "writer": Shape.UNARY_STREAM.handler(self.writer),
            "background": Shape.UNARY_UNARY.handler(self.in_background),
        }

    def finish(self, context: Any) -> None:
        ask(context)
        self.asked.set()

    def finish_behind_the_handler(self, context: Any) -> None:
        for rarely_asked in (context.auth_context, context.peer_identity_key):
            with contextlib.suppress(grpc.aio.UsageError):
                rarely_asked()
        context.peer_identities()
        context.invocation_metadata()
        assert context.peer()
        self.asked.set()

    def plain(self, _request: bytes, context: Any) -> bytes:
        self.entered.set()
        self.released.wait()
        self.finish(context)
        return b""

    def generator(self, _request: bytes, context: Any) -> Iterator[bytes]:
        self.entered.set()
        self.released.wait()
        self.finish(context)
        yield b""

    async def release(self) -> None:
        while not self.released.is_set():  # one event for threads and tasks alike
            # A write that fails as the client goes comes before grpc's cancellation, which then arrives here.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(STEP_SECONDS)

    async def coroutine(self, _request: bytes, context: Any) -> bytes:
        try:
            self.entered.set()
            await asyncio.Event().wait()
        finally:
            await self.release()
            self.finish(context)
        return b""

    async def writer(self, _request: bytes, context: Any) -> None:
        try:
            while True:
                await context.write(bytes(65536))
                self.entered.set()
        finally:
            await self.release()
            self.finish(context)

    async def async_generator(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(65536)
                self.entered.set()
        finally:
            await self.release()
            self.finish(context)

    async def in_background(self, _request: bytes, context: Any) -> bytes:
        async def later() -> None:
            await self.release()
            for act in (context.read, lambda: context.write(b""), lambda: context.abort(None, "")):
                with contextlib.suppress(Exception):
                    await act()
            self.finish_behind_the_handler(context)

        task = asyncio.create_task(later())
        self.background.add(task)
        task.add_done_callback(self.background.discard)
        self.entered.set()
        await asyncio.Event().wait()
        return b""


class Busy:
    """Handlers of every kind and shape that ask all the time."""

    def __init__(self) -> None:
        self.begun: collections.Counter[str] = collections.Counter()
        self.interrupted: collections.Counter[str] = collections.Counter()

    def handlers(self) -> dict[str, Handler]:
        kinds = {"plain": self.plain, "async": self.asynchronous, "writer": self.writing}
        return {
            f"{kind}_{shape.name.lower()}": shape.handler(make(kind, shape))
            for kind, make in kinds.items()
            for shape in Shape
            if kind != "writer" or shape.streams_answer
        }

    @contextlib.contextmanager
    def _counted(self, name: str, context: Any) -> Iterator[None]:
        self.begun[name] += 1
        completed = False
        try:
            yield
            completed = not hasattr(context, "is_active") or context.is_active()
        finally:
            ask(context)
            self.interrupted[name] += not completed

    def plain(self, kind: str, shape: Shape) -> Callable[..., Any]:
        def steps(request: Any, context: Any) -> Iterator[bytes]:
            with self._counted(kind, context):
                for _ in request if shape.streams_request else (request,):
                    ask(context)
                for _ in range(STEPS):
                    time.sleep(STEP_SECONDS)
                    ask(context)
                    yield b"answer"

        def function(request: Any, context: Any) -> bytes:
            return b"".join(steps(request, context))

        return steps if shape.streams_answer else function

    def asynchronous(self, kind: str, shape: Shape) -> Callable[..., Any]:
        async def steps(request: Any, context: Any) -> AsyncIterator[bytes]:
            with self._counted(kind, context):
                if shape.streams_request:
                    async for _ in request:
                        ask(context)
                for _ in range(STEPS):
                    await asyncio.sleep(STEP_SECONDS)
                    ask(context)
                    yield b"answer"

        async def coroutine(request: Any, context: Any) -> bytes:
            return b"".join([answer async for answer in steps(request, context)])

        return steps if shape.streams_answer else coroutine

    def writing(self, kind: str, shape: Shape) -> Callable[..., Any]:
        async def writer(request: Any, context: Any) -> None:
            with self._counted(kind, context):
                if shape.streams_request:
                    async for _ in request:
                        ask(context)
                for _ in range(STEPS):
                    await asyncio.sleep(STEP_SECONDS)
                    ask(context)
                    await context.write(b"answer")

        return writer


async def serve(*, guarded: bool) -> None:
    held, busy, authority = Held(), Busy(), FakeAuthority()

    async def entered(_request: bytes, _context: Any) -> bytes:
        await asyncio.to_thread(held.entered.wait)
        return b""

    async def turn(_request: bytes, _context: Any) -> bytes:
        return b""

    async def release(_request: bytes, _context: Any) -> bytes:
        held.released.set()
        await asyncio.to_thread(held.asked.wait)
        return b""

    async def report(_request: bytes, _context: Any) -> bytes:
        return json.dumps({"begun": busy.begun, "interrupted": busy.interrupted}).encode()

    control = {
        f"/control/{behaviour.__name__}": Shape.UNARY_UNARY.handler(behaviour)
        for behaviour in (entered, turn, release, report)
    }
    working = {f"/late/{name}": handler for name, handler in (held.handlers() | busy.handlers()).items()}
    auth = rpz_auth.AuthInterceptor(
        authority,
        resource=RESOURCE,
        policies=dict.fromkeys(control, rpz_auth.PUBLIC) | dict.fromkeys(working, rpz_auth.scopes(SCOPE)),
    )
    async with auth:
        server = grpc.aio.server(interceptors=[auth] if guarded else [])
        server.add_generic_rpc_handlers((Generic(control | working),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        token = authority.access_token(resource=RESOURCE, scopes=[SCOPE]).field_value()
        print(json.dumps({"port": port, "credential": token}), flush=True)  # noqa: T201 - for its parent
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(guarded=sys.argv[1] == "guarded"))
