"""One of several workers: how it tells its supervisor that it is ready, and hears that it should go."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

MOVED = 3
"""The exit code of an authority whose database was moved to another: it cannot be started as it was."""


class Life:
    """When a process is to end: at once, with a few seconds for the calls in flight, or in its own time."""

    def __init__(self, control: int | None) -> None:
        """Listen for signals, and watch the supervisor; on the running event loop.

        Args:
            control: The file descriptor of a socket whose other end the supervisor holds; None without one.
        """
        self.stopping = asyncio.Event()
        """SIGTERM, Ctrl-C, or the supervisor has died."""
        self._leaving = asyncio.Event()
        self._control = None if control is None else socket.socket(fileno=control)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        if self._control is not None:
            loop.add_signal_handler(signal.SIGUSR1, self._leaving.set)
            loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the supervisor's business
            loop.add_reader(self._control, self._read)

    def wait_on(self) -> None:
        """Tell the supervisor that it is not ready and yet all right."""
        if self._control is not None:
            self._control.send(b"\n")

    def greet(self, text: str) -> None:
        """Say that it is ready: to the supervisor, or to the person or script that started it."""
        if self._control is None:
            print(text, flush=True)  # noqa: T201 - for whoever started it
        else:
            self._control.setblocking(True)
            self._control.sendall(text.encode())
            self._control.shutdown(socket.SHUT_WR)

    async def last(self) -> bool:
        """Wait for the end; return whether there is time, since other workers take the calls."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self.stopping, self._leaving)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return not self.stopping.is_set()

    def _read(self) -> None:
        # The supervisor never writes: what can be read is its end.
        assert self._control is not None  # noqa: S101 - it is what was readable
        asyncio.get_running_loop().remove_reader(self._control)
        print("rpz-auth-server: the supervisor has gone", file=sys.stderr)  # noqa: T201 - logs may be gone, too
        self.stopping.set()
