"""A database that replicates itself: three PostgreSQL servers under Patroni, synchronous and strict."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from support.postgres import free_port, require_programs, unprivileged
from support.tcp_proxy import TcpProxy

TTL = 20
"""Seconds after which a leader that says nothing is deposed; the least that Patroni takes."""
_READY = 120.0
_SIZE = "320m"
"""Of the file system of one node, so that a test can fill it."""
_PASSWORD = "only for this cluster"


class Node:
    """Patroni and its PostgreSQL, in a process group and on a file system of their own."""

    def __init__(self, name: str, folder: Path, etcd: int) -> None:
        self.name = name
        self.folder = folder / name
        self._postgres, self._rest = free_port(), free_port()
        self._links: dict[str, TcpProxy] = {}
        """Its network: what goes to its PostgreSQL and its Patroni, and from that to etcd."""
        for what, port in (("postgres", self._postgres), ("rest", self._rest), ("etcd", etcd)):
            self._links[what] = TcpProxy(f"127.0.0.1:{port}")
            self._links[what].start()
        self.address = self._links["postgres"].address
        self.log = folder / f"{name}.log"
        self.folder.mkdir()
        _run("/usr/bin/mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", name, str(self.folder))
        shutil.chown(self.folder, "postgres")
        self._configuration = folder / f"{name}.json"
        self._configuration.write_text(json.dumps(self._settings()))  # JSON is YAML
        self.process: subprocess.Popen[bytes] | None = None

    def _settings(self) -> dict[str, Any]:
        return {
            "scope": "rpz",
            "name": self.name,
            "restapi": {
                "listen": f"127.0.0.1:{self._rest}",
                "connect_address": self._links["rest"].address,
            },
            # Proxies: it would ask etcd for another way to it, and go around the one that can be cut.
            "etcd3": {"hosts": [self._links["etcd"].address], "use_proxies": True},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL,
                    "loop_wait": 2,
                    "retry_timeout": 5,
                    "maximum_lag_on_failover": 1048576,
                    "synchronous_mode": True,
                    "synchronous_mode_strict": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {
                            "fsync": "on",
                            "synchronous_commit": "on",
                            "max_connections": 100,
                            "shared_buffers": "32MB",
                            "max_wal_size": "64MB",
                            "min_wal_size": "32MB",
                            "wal_keep_size": "32MB",
                        },
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self._postgres}",
                "connect_address": self.address,
                "data_dir": str(self.folder / "data"),
                "bin_dir": str(require_programs()),
                "pgpass": str(self.folder / "pgpass"),
                "parameters": {"unix_socket_directories": str(self.folder)},
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 md5",
                    "host replication all 127.0.0.1/32 md5",
                ],
                "authentication": {
                    "superuser": {"username": "postgres", "password": _PASSWORD},
                    "replication": {"username": "replicator", "password": _PASSWORD},
                    "rewind": {"username": "rewinder", "password": _PASSWORD},
                },
            },
        }

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - of the distribution
                [*unprivileged()[1], "/usr/bin/patroni", str(self._configuration)],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"},
            )

    def processes(self) -> list[int]:
        """All processes of this node: what Patroni started runs in sessions of its own."""
        marks = (str(self.folder).encode(), str(self._configuration).encode())
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                place = (entry / "cwd").readlink()
                if any(mark in command for mark in marks) or self.folder in place.parents:
                    found.append(int(entry.name))
        return found

    def postmaster(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def cut(self) -> None:
        """Let nothing reach it, and nothing of it reach etcd; connections stay open and are silent."""
        for link in self._links.values():
            link.stall()

    def heal(self) -> None:
        """Undo a cut: what was sent meanwhile arrives, as TCP would send it again."""
        for link in self._links.values():
            link.resume()

    def status(self) -> dict[str, Any] | None:
        """What Patroni says of its PostgreSQL, cut off or not; None when it says nothing."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._rest}/patroni", timeout=2) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with contextlib.suppress(ValueError):
                return dict(json.load(error))
        except (OSError, ValueError):
            pass
        return None

    def post(self, path: str, content: dict[str, str]) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._rest}{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())

    def fill(self) -> Path:
        """Fill the file system to its last byte."""
        path = self.folder / "ballast"
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(1 << 16))
        with contextlib.suppress(OSError), path.open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(256))
        return path

    def remove(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        for link in self._links.values():
            link.stop()
        if self.process is not None:
            self.process.wait(10)
        for _ in range(50):
            if _run("/usr/bin/umount", str(self.folder), check=False):
                return
            time.sleep(0.1)


def _run(*command: str, check: bool = True) -> bool:
    done = subprocess.run(command, check=check, stderr=subprocess.DEVNULL)  # noqa: S603 - as root, on a test machine
    return done.returncode == 0


class Cluster:
    """What the tests do to a cluster."""

    def __init__(self) -> None:
        pwd.getpwnam("postgres")
        self.folder = Path(tempfile.mkdtemp(prefix="rpz-auth-cluster-", dir="/tmp"))
        self.folder.chmod(0o755)
        port, peers = free_port(), free_port()
        with (self.folder / "etcd.log").open("wb") as log:
            self._etcd = subprocess.Popen(  # noqa: S603 - of the distribution
                [
                    "/usr/bin/etcd",
                    f"--data-dir={self.folder / 'etcd'}",
                    f"--listen-client-urls=http://127.0.0.1:{port}",
                    f"--advertise-client-urls=http://127.0.0.1:{port}",
                    f"--listen-peer-urls=http://127.0.0.1:{peers}",
                    f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
                    f"--initial-cluster=default=http://127.0.0.1:{peers}",
                ],
                stdout=log,
                stderr=log,
            )
        self.nodes: list[Node] = []
        try:
            for number in (1, 2, 3):
                self.nodes.append(Node(f"node{number}", self.folder, port))
                self.nodes[-1].start()
            self.wait_until_whole()
            with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
                connection.execute("CREATE DATABASE rpz")
        except BaseException:
            self.remove()
            raise

    def url(self, database: str = "rpz", addresses: Sequence[str] = ()) -> str:
        """Where the database is, by other addresses of the nodes if need be."""
        hosts = ",".join(addresses or (node.address for node in self.nodes))
        password = _PASSWORD.replace(" ", "%20")
        return f"postgresql://postgres:{password}@{hosts}/{database}?target_session_attrs=read-write&connect_timeout=2"

    def primary(self) -> Node | None:
        for node in self.nodes:
            status = node.status()
            if status and status.get("role") == "master" and status.get("state") == "running":
                return node
        return None

    def is_whole(self) -> bool:
        """One primary, two replicas that stream from it, one of them synchronous."""
        primary = self.primary()
        status = primary.status() if primary else None
        if status is None:
            return False
        replicas = status.get("replication", [])
        states = sorted(replica["sync_state"] for replica in replicas if replica["state"] == "streaming")
        return states == ["async", "sync"]

    def wait_until_whole(self) -> None:
        deadline = time.monotonic() + _READY
        while not self.is_whole():
            assert time.monotonic() < deadline, f"the cluster did not come back:\n{self.logs()}"
            time.sleep(0.25)

    def logs(self) -> str:
        """The last lines of every node."""
        ends = [(node.name, node.log.read_text(errors="replace").splitlines()[-15:]) for node in self.nodes]
        return "\n".join(f"{name}: {line}" for name, lines in ends for line in lines)

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()
        self._etcd.kill()
        self._etcd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.remove()
