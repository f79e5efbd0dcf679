"""Real proxies in front of real services."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

_TOOLS = Path(__file__).parents[2] / ".venv-proxies" / "bin"
_READY_TIMEOUT = 60.0


def program(name: str) -> str:
    """The path of a program; without it the test is skipped, and fails where nobody would read of it."""
    found = shutil.which(name, path=f"{_TOOLS}:{os.environ.get('PATH', '')}:/usr/sbin")
    return found or missing(f"{name} is")


def missing(what: str) -> NoReturn:
    """Skip the test for what is not installed, or fail it."""
    message = f"{what} not here: run scripts/install-extras"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot be asked which one they took."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """Run a proxy until the end of the block; begins when it accepts connections."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - found above
    try:
        _wait_for(port, process, log)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + _READY_TIMEOUT
    retry = threading.Event()
    while time.monotonic() < give_up_at and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        retry.wait(0.05)
    pytest.fail(f"the proxy did not start:\n{log.read_text()}")
