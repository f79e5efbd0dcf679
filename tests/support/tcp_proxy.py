"""A TCP proxy that loses, delays and half-closes what it carries; it reorders nothing but time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_CHUNK = 65536


class TcpProxy:
    """Carries connections to `target`, until told otherwise. Its methods may be called from any thread."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.delay = 0.0
        """Seconds that every piece waits, in both directions."""
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._held: list[tuple[asyncio.StreamWriter, bytes]] | None = None
        """What was kept from clients, in order; None while nothing is."""
        self._accepting = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._started = threading.Event()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(20)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection, and take no more."""
        self._do(self._cut)

    def stall(self) -> None:
        """Carry nothing any more, and keep every connection open."""
        self._do(self._flowing.clear)

    def hold_answers(self) -> None:
        """Carry what clients send, and nothing of what they are sent."""
        self._do(self._hold_answers)

    @property
    def held(self) -> int:
        """Bytes that are on their way to clients and held."""
        return sum(len(data) for _, data in self._held or ())

    def half_close(self) -> None:
        """Tell the clients that nothing more will come, and take no more."""
        self._do(self._half_close)

    def resume(self) -> None:
        """Carry again, old connections and new."""
        self._do(self._resume)

    def _do(self, act: Any) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(20)

    def _cut(self) -> None:
        self._accepting = False
        for writer in self._writers:
            writer.transport.abort()

    def _hold_answers(self) -> None:
        self._held = []

    def _half_close(self) -> None:
        self._accepting = False
        for writer in self._writers:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()

    def _resume(self) -> None:
        self._accepting = True
        self._flowing.set()
        held, self._held = self._held, None
        for writer, data in held or ():
            writer.write(data)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        self._started.set()
        await self._stopping.wait()
        server.close()
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            if not self._accepting:
                raise ConnectionRefusedError
            upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream_writer}
        try:
            await asyncio.gather(
                self._pump(reader, upstream_writer), self._pump(upstream_reader, writer, answers=True)
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers -= {writer, upstream_writer}
            writer.transport.abort()
            upstream_writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False
    ) -> None:
        while data := await reader.read(_CHUNK):
            if answers and self._held is not None:
                self._held.append((writer, data))
                continue
            await self._flowing.wait()
            await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        if not writer.transport.is_closing():
            writer.write_eof()


@contextlib.contextmanager
def running_proxy(target: str) -> Iterator[TcpProxy]:
    """A proxy that is stopped at the end."""
    proxy = TcpProxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
