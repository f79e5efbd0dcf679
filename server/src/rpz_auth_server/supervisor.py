"""The program behind `--workers`: keeps several workers on one port.

It never imports grpc, whose threads do not go together with starting processes, and does nothing that could
fail the way a worker can. It starts workers, restarts those that crash, ends them on SIGTERM, and on SIGHUP
replaces them one after another: a new one is ready before an old one leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from rpz_auth_server import log
from rpz_auth_server.worker import MOVED

_log = structlog.get_logger("rpz_auth_server")

_READY = 120.0
"""Seconds that a worker may take to start."""
_STOP = 20.0
"""Seconds that a worker may take to stop; its own patience with calls in flight is 10."""
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 10.0
_STEADY = 60.0
"""Seconds after which a worker that crashes is not taken for one that cannot run at all."""


class CannotStart(Exception):  # noqa: N818 - says what happened
    """A worker has ended, or said nothing for two minutes, before it was ready, or was never made."""


@dataclass(slots=True, eq=False)
class _Worker:
    process: asyncio.subprocess.Process
    control: socket.socket
    """Closed with this process, however it ends: that is how a worker hears of it."""
    greeting: str = ""
    started: float = field(default_factory=time.monotonic)


class Supervisor:
    """A fixed number of workers."""

    def __init__(self, command: Sequence[str], count: int) -> None:
        """Run `command` `count` times, each with `--control` and a file descriptor."""
        self._command = tuple(command)
        self._count = count
        self._workers: list[_Worker] = []
        self._leaving: set[_Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._moved = self._failed = False
        self._roll = asyncio.Event()

    async def run(self) -> int:
        """Run until SIGTERM or Ctrl-C; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._roll.set)
        self._do(self._begin())
        await self._stopping.wait()
        _log.info("stopping the workers")
        await self._stop()
        return MOVED if self._moved else int(self._failed)

    async def _begin(self) -> None:
        try:
            # The first alone: it makes what the others find.
            self._keep(await self._start())
            for worker in await asyncio.gather(*(self._start() for _ in range(self._count - 1))):
                self._keep(worker)
        except CannotStart:
            self._failed = True
            self._stopping.set()
            return
        print(self._workers[0].greeting, flush=True)  # noqa: T201 - for the person or script that started it
        _log.info("workers are ready", workers=self._count)
        await self._roll_forever()

    async def _start(self) -> _Worker:
        try:
            worker = await self._spawn()
        except OSError as error:  # too many processes or files, no memory, or the program is being replaced
            _log.error("a worker cannot be made", reason=error.strerror)
            raise CannotStart from error
        try:
            worker.greeting = await _read_all(worker.control)
        except TimeoutError:
            worker.process.kill()
        except asyncio.CancelledError:
            self._leaving.add(worker)
            raise
        if not worker.greeting:
            code = await worker.process.wait()
            worker.control.close()
            _log.error("a worker ended before it was ready", code=code)
            raise CannotStart
        return worker

    async def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *self._command, "--control", str(theirs.fileno()), pass_fds=[theirs.fileno()]
                )
        except BaseException:
            ours.close()
            raise
        return _Worker(process, ours)

    def _keep(self, worker: _Worker) -> None:
        if len(self._workers) >= self._count:  # one that crashes while it is replaced has two successors
            self._dismiss(worker)
            return
        self._workers.append(worker)
        self._do(self._watch(worker))

    def _dismiss(self, worker: _Worker) -> None:
        """Let a worker go in its own time."""
        with contextlib.suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGUSR1)
        self._leaving.add(worker)
        self._do(self._let_go(worker))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nobody awaits it, and without it workers are missing sooner or later: let whoever started this
            # program start it again.
            _log.error("the supervisor has failed; it stops", exc_info=error)
            self._failed = True
            self._stopping.set()

    async def _watch(self, worker: _Worker) -> None:
        """Wait for the end of a worker, and put another into its place unless it was told to go."""
        code = await worker.process.wait()
        worker.control.close()
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        if code == MOVED:  # as it is for all
            self._moved = True
            self._stopping.set()
        delay = _FIRST_DELAY
        steady = time.monotonic() - worker.started > _STEADY
        while not self._stopping.is_set():
            _log.error("a worker has crashed; it is started again", code=code, after=0 if steady else delay)
            if not steady:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
                        return
            steady, delay = False, min(2 * delay, _LONGEST_DELAY)
            try:
                self._keep(await self._start())
            except CannotStart:
                continue
            _log.info("another worker has taken its place")
            return

    async def _roll_forever(self) -> None:
        while True:
            await self._roll.wait()
            self._roll.clear()
            _log.info("replacing the workers")
            try:
                for old in list(self._workers):
                    new = await self._start()
                    if old in self._workers:
                        self._workers.remove(old)
                        self._dismiss(old)
                    self._keep(new)
            except CannotStart:
                _log.error("the new workers do not start; the old ones stay")
            else:
                _log.info("the workers are replaced", workers=len(self._workers))

    async def _let_go(self, worker: _Worker) -> None:
        await worker.process.wait()
        worker.control.close()
        self._leaving.discard(worker)

    async def _stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # after which no worker is being started
        going = [*self._workers, *self._leaving]
        self._workers.clear()
        for worker in going:
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()
        ends = [asyncio.ensure_future(worker.process.wait()) for worker in going]
        if ends:
            await asyncio.wait(ends, timeout=_STOP)
        for worker in going:
            if worker.process.returncode is None:
                _log.error("a worker did not stop in time", pid=worker.process.pid)
                worker.process.kill()
                await worker.process.wait()


async def _read_all(control: socket.socket) -> str:
    """Read a greeting, and the lines before it by which a worker says that it goes on waiting.

    Raises:
        TimeoutError: It has said nothing for too long.
    """
    loop = asyncio.get_running_loop()
    read = b""
    while True:
        async with asyncio.timeout(_READY):
            part = await loop.sock_recv(control, 4096)
        if not part:
            return read.decode().strip()
        read += part


def reserve(address: str) -> tuple[socket.socket, str]:
    """Hold a port that the workers share, without listening on it; return `host:port` with its number.

    Raises:
        OSError: Somebody else has it.
    """
    host, _, number = address.rpartition(":")
    family, _, _, _, place = socket.getaddrinfo(
        host.strip("[]"), int(number), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    if int(number):
        # Another supervisor of the same user would be let in beside us.
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    held = socket.socket(family)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind(place)
    except OSError:
        held.close()
        raise
    return held, f"{host}:{held.getsockname()[1]}"


def main(plan: Mapping[str, Any]) -> int:
    """Run a plan: the workers' command, their number, the addresses that they share, and how to log."""
    log.configure(log_format=plan["log_format"], log_level=plan["log_level"])
    command = list(plan["command"])
    with contextlib.ExitStack() as stack:
        for flag, address in plan["addresses"].items():
            try:
                held, shared = reserve(address)
            except OSError:
                _log.error("another program has the port, or the address is not this machine's", flag=flag)
                return 1
            stack.enter_context(held)
            command += [flag, shared]
        return asyncio.run(Supervisor(command, plan["workers"]).run())


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
