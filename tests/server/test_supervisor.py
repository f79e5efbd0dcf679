"""The supervisor with workers that do nothing; `tests/e2e/test_workers.py` has real ones."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rpz_auth_server.worker import MOVED

_WORKER = """#!{python}
import asyncio, pathlib, sys, time
from rpz_auth_server.worker import Life

async def main():
    life = Life(int(sys.argv[-1]))
    while not (pathlib.Path({gate!r}).exists() or life.stopping.is_set()):
        life.wait_on()
        await asyncio.sleep(0.02)
    life.greet("ready")
    await life.last()
    if pathlib.Path({moved!r}).exists():
        sys.exit({code})

asyncio.run(main())
"""


class Running:
    """A supervisor of two, whose workers are ready when a file is there."""

    def __init__(self, folder: Path, *, is_open: bool = True) -> None:
        self.program, self.gate, self.moved = folder / "worker", folder / "gate", folder / "moved"
        self.log = folder / "log"
        self.write_program()
        if is_open:
            self.gate.touch()
        plan = {
            "command": [str(self.program)],
            "workers": 2,
            "addresses": {},
            "log_format": "json",
            "log_level": "info",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "rpz_auth_server.supervisor", json.dumps(plan)],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        if is_open:
            self.wait_for_log("workers are ready")

    def write_program(self) -> None:
        draft = self.program.with_suffix(".new")
        draft.write_text(
            _WORKER.format(python=sys.executable, gate=str(self.gate), moved=str(self.moved), code=MOVED)
        )
        draft.chmod(stat.S_IRWXU)
        draft.rename(self.program)  # nobody runs one that is open for writing

    def workers(self) -> list[int]:
        """Its children, the oldest first."""
        pid = self.process.pid
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def wait_for_workers(self, count: int) -> list[int]:
        deadline = time.monotonic() + 60
        while len(found := self.workers()) != count:
            assert time.monotonic() < deadline, (found, self.log.read_text())
            time.sleep(0.02)  # other processes are at it
        return found

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        assert running.process.wait(60) == 0, running.log.read_text()
    with contextlib.suppress(FileNotFoundError):
        assert running.workers() == []


def test_worker_that_cannot_be_made_is_tried_again_until_it_can(supervisor: Running) -> None:
    supervisor.program.unlink()
    os.kill(supervisor.workers()[0], signal.SIGKILL)
    supervisor.wait_for_log("a worker cannot be made")
    supervisor.wait_for_workers(1)
    supervisor.process.send_signal(signal.SIGHUP)  # a replacement fails the same way, and the old one stays
    supervisor.wait_for_log("the new workers do not start; the old ones stay")
    supervisor.write_program()
    supervisor.wait_for_log("another worker has taken its place")
    before = supervisor.wait_for_workers(2)
    supervisor.process.send_signal(signal.SIGHUP)
    supervisor.wait_for_log("the workers are replaced")
    assert not set(supervisor.wait_for_workers(2)) & set(before)


def test_worker_that_crashes_while_it_is_replaced_has_one_successor(supervisor: Running) -> None:
    first, second = supervisor.workers()
    supervisor.gate.unlink()
    supervisor.process.send_signal(signal.SIGHUP)
    supervisor.wait_for_workers(3)
    os.kill(first, signal.SIGKILL)
    supervisor.wait_for_log("a worker has crashed")
    # Its successor, and the one that was to replace it: both are about to be ready.
    while first in supervisor.workers():
        time.sleep(0.02)
    supervisor.wait_for_workers(3)
    supervisor.gate.touch()
    supervisor.wait_for_log("the workers are replaced")
    assert not {first, second} & set(supervisor.wait_for_workers(2))


def test_workers_whose_database_was_moved_are_not_started_again(supervisor: Running) -> None:
    supervisor.moved.touch()
    os.kill(supervisor.workers()[0], signal.SIGTERM)
    assert supervisor.process.wait(60) == MOVED, supervisor.log.read_text()


def test_supervisor_ends_on_a_signal_while_its_first_worker_is_not_ready(tmp_path: Path) -> None:
    supervisor = Running(tmp_path, is_open=False)
    try:
        (worker,) = supervisor.wait_for_workers(1)
        supervisor.process.terminate()
        assert supervisor.process.wait(30) == 0, supervisor.log.read_text()
        assert not Path(f"/proc/{worker}").exists(), "it was waited for"
    finally:
        supervisor.process.kill()
        supervisor.process.wait()
