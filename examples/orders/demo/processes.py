"""The programs of the story, each in a process of its own."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

START_TIMEOUT = 40.0
"""Seconds until a program must say that it is ready."""
STOP_TIMEOUT = 15.0
_TAIL = 12


class ProcessError(Exception):
    """A program did not start or did not do its work; the message has the end of what it said."""


class Process:
    """One program, which says on its output when it is ready."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path) -> None:
        """Start `command`; its errors go to `log`."""
        self.name = name
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environ(),
                process_group=0,  # Ctrl-C is for the storyteller, who then stops them in order
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_until_ready(self, word: str) -> str:
        """Return the line with `word`, which the program prints when it is ready.

        Raises:
            ProcessError: It ended, or took too long.
        """
        line = " "
        while line:
            try:
                line = self._lines.get(timeout=START_TIMEOUT)
            except queue.Empty:
                break
            if word in line:
                return line.rstrip()
        raise ProcessError(f"{self.name} did not start:\n{self._tail()}")

    def stop(self) -> int:
        """Ask the program to end, see to it that it does, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _read(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as lines:
                for line in lines:
                    self._lines.put(line)
        self._lines.put("")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:])


def start_authority(folder: Path) -> Process:
    """Start an authority that keeps all it has in `folder`."""
    program = Path(sys.executable).with_name("rpz-auth-server")
    command: list[str | Path] = [
        program,
        "serve",
        "--data-dir",
        folder / "data",
        "--grpc-address",
        "127.0.0.1:0",
    ]
    return Process("the authority", command, folder / "authority.log")


def start_service(
    name: str, program: Path, folder: Path, verifier: Path, *, client_ca: Path | None = None
) -> Process:
    """Start the order service, behind the development certificate of the authority in `folder`."""
    tls = folder / "data" / "tls"
    command: list[str | Path] = [sys.executable, program, "--verifier", verifier, "--address", "127.0.0.1:0"]
    command += ["--tls-certificate", tls / "server.pem", "--tls-key", tls / "server.key"]
    command += ["--tls-client-ca", client_ca] if client_ca else []
    return Process(name, command, folder / f"{name}.log")


def make_verifier_file(folder: Path, resource: str) -> Path:
    """Make the file by which a service verifies tokens, as the administrator of the authority in `folder`.

    Raises:
        ProcessError: It was refused.
    """
    path, administrator = folder / "orders.json", folder / "data" / "bootstrap.json"
    command: list[str | Path] = [_program("rpz-auth"), "--credentials", administrator, "apps", "create"]
    command += ["orders", "--resource", resource, "--verifier", path]
    done = subprocess.run(  # noqa: S603 - our own program
        command, env=_environ(), capture_output=True, text=True, timeout=START_TIMEOUT, check=False
    )
    if done.returncode:
        raise ProcessError(f"rpz-auth ended with exit code {done.returncode}: {done.stderr}")
    return path


def _program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def _environ() -> dict[str, str]:
    """Without settings for another authority, which somebody may have in their shell."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RPZ_AUTH_")}
