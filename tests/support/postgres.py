"""A real PostgreSQL server of the tests' own: Debian's programs, a directory of its own, a free port."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

_START_TIMEOUT = 60.0
_SETTINGS = """
fsync = on
synchronous_commit = on
full_page_writes = on
max_connections = 200
shared_buffers = 32MB
listen_addresses = '127.0.0.1'
log_min_messages = warning
"""


@functools.cache
def programs() -> Path | None:
    """Where initdb and postgres are, the newest of them; None when they are not installed."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: float(path.parts[-3]),
        reverse=True,
    )
    if found:
        return found[0].parent
    elsewhere = shutil.which("postgres")
    return Path(elsewhere).parent if elsewhere else None


def require_programs() -> Path:
    """Find the programs, or skip the test; on a machine without a person, fail it."""
    folder = programs()
    if folder is None:
        message = "PostgreSQL is not installed; run scripts/install-system as root (apt install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


def unprivileged() -> tuple[str | None, list[str]]:
    """Whom to run as what refuses to run as root, and the beginning of a command that does so.

    Not by `subprocess`: its `user` makes it fork in a way that grpc, in this process, does not survive.
    """
    if os.geteuid() != 0:
        return None, []
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            # A test run that is killed takes its server along.
            rights = [f"--reuid={name}", f"--regid={user.pw_gid}", "--init-groups", "--pdeathsig=QUIT"]
            return name, ["/usr/bin/setpriv", *rights]
    raise LookupError("neither a user postgres nor nobody")


def free_port() -> int:
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresServer:
    """One server, from `initdb` to its end."""

    def __init__(self, *settings: str) -> None:
        self._programs = require_programs()
        self.folder = Path(tempfile.mkdtemp(prefix="rpz-auth-postgres-", dir="/tmp"))
        self.folder.chmod(0o700)
        user, self._as = unprivileged()
        if user is not None:
            shutil.chown(self.folder, user)
        self.data = self.folder / "data"
        self.port = free_port()
        self._numbers = itertools.count(1)
        self.process: subprocess.Popen[bytes] | None = None
        try:
            command = [str(self._programs / "initdb"), "-D", str(self.data), "-U", "rpz", "-A", "trust"]
            command += ["--no-sync", "--wal-segsize=1", "--encoding=UTF8", "--locale=C.UTF-8"]
            self._run(command)
            with (self.data / "postgresql.conf").open("a") as configuration:
                configuration.write(_SETTINGS)
                configuration.write(f"port = {self.port}\nunix_socket_directories = '{self.folder}'\n")
                configuration.writelines(f"{setting}\n" for setting in settings)
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - of a folder that Debian owns
                [*self._as, str(self._programs / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, "PostgreSQL does not take connections"
                time.sleep(0.02)
            else:
                return

    def url(self, database: str) -> str:
        """How to reach a database by the socket, without a password."""
        return f"postgresql://rpz@/{database}?host={self.folder}&port={self.port}"

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def create_database(self) -> str:
        """Make room for one authority and return its URL: a schema, which costs less than a database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&options=-csearch_path%3D{name}"

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT is the quick way without a checkpoint, SIGKILL a power cut."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        process.wait(30)

    def remove(self) -> None:
        """Stop it and delete all that it had."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(  # noqa: S603 - as above
            [*self._as, *command],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        assert done.returncode == 0, done.stdout.decode()


@contextlib.contextmanager
def running_postgres(*settings: str) -> Iterator[PostgresServer]:
    """Run a server for as long as the block lasts."""
    server = PostgresServer(*settings)
    try:
        yield server
    finally:
        server.remove()
