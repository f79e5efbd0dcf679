"""How long a move from SQLite to PostgreSQL takes while clients and services go on, and what they notice."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import grpc
import psycopg
from support.authority import START_TIMEOUT, AuthorityProcess, Client, refresh_request, running_authority
from support.orders import Verifying, orders_service
from support.postgres import running_postgres

from bench.fill import fill
from bench.report import Report, Table

_ISSUER = "https://auth.example"
_PAUSE = 0.01
_START_TIMEOUT = 1800.0  # it waits for the move, which takes minutes


class _Renewing:
    """A client that renews without a pause, and again where nobody answers."""

    def __init__(self, authority: AuthorityProcess, client: Client) -> None:
        self._authority = authority
        self._client = client
        self._token = authority.exchange(client, authority.issue_code(client)).refresh_token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew)
        self.done: list[float] = []
        """When, by the monotonic clock."""
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _renew(self) -> None:
        with self._authority.connect() as tokens:
            while not self._stop.wait(_PAUSE):
                request = refresh_request(self._client, self._token)
                try:
                    self._token = tokens.Refresh(request, timeout=10).refresh_token
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        self.failed.append(f"{error.code().name} {error.details()}")
                else:
                    self.done.append(time.monotonic())


def run(*, quick: bool) -> Report:
    """Move a million grants and a hundred thousand Apps (a fiftieth when quick), the new one waiting."""
    grants, apps = (20_000, 2_000) if quick else (1_000_000, 100_000)
    with tempfile.TemporaryDirectory() as folder, running_postgres("max_wal_size = 4GB") as server:
        data_dir, url = Path(folder) / "data", server.create_database()
        config = Path(folder) / "config.toml"
        config.write_text("refresh_limit = 0\n")
        flags = ("--config", str(config), "--issuer", _ISSUER)
        with running_authority(data_dir, *flags) as founding:
            client = founding.create_client()
            founding.exchange(client, founding.issue_code(client))
        fill(
            data_dir / "rpz-auth.db",
            {"grants": ("grant_id", None, grants), "apps": ("app_id", client.app_id, apps)},
        )
        old = AuthorityProcess(data_dir, *flags)
        try:
            token = old.exchange(client, old.issue_code(client)).access_token
            with (
                orders_service(old.create_verifier(Path(folder) / "verifier.json")) as service,
                _Renewing(old, client) as renewing,
                Verifying(service, f"Bearer {token}") as verifying,
                ThreadPoolExecutor(1) as pool,
            ):
                begun = time.monotonic()
                moving = _start_move(data_dir, url)
                _wait_for_mark(url)
                here = ("--grpc-address", old.address, "--database", url)
                starting = pool.submit(
                    AuthorityProcess, data_dir, *flags, *here, start_timeout=_START_TIMEOUT
                )
                if moving.wait() != 0:
                    raise SystemExit("the move has failed; what it says stands above")
                took = time.monotonic() - begun
                new = starting.result(START_TIMEOUT)
                ready = time.monotonic()
                old.wait()
                time.sleep(15)  # longer than the staleness: who had lost the stream would refuse by now
                ended = time.monotonic()
            new.stop()
        finally:
            old.kill()
    if renewing.failed:
        raise SystemExit(f"the client was refused: {set(renewing.failed)}")
    if renewing.done[-1] < ready:
        raise SystemExit("the client never came back")
    gap, passing = _longest([*renewing.done, ended]), _longest([*verifying.passed, ended])
    return Report(
        summary=(
            f"A live authority with {grants:,} grants and {apps:,} Apps moves from SQLite to PostgreSQL, on "
            "one machine. A client renews all the time, and a service with the default staleness (10 s) "
            "verifies. The new authority was started while the bulk was copied, on the old one's address."
        ),
        tables=[
            Table(
                "A move",
                ("took", "renewals", "longest gap", "verified", "longest gap", "refused by the service"),
                [
                    (
                        f"{took:.0f} s",
                        f"{len(renewing.done):,}",
                        f"{gap:.1f} s",
                        f"{len(verifying.passed):,}",
                        f"{passing:.1f} s",
                        str(len(verifying.refused)),
                    )
                ],
            )
        ],
        raw={"took": took, "gap": gap, "renewals": len(renewing.done), "refused": verifying.refused},
    )


def _start_move(data_dir: Path, url: str) -> subprocess.Popen[bytes]:
    program = str(Path(sys.executable).with_name("rpz-auth-server"))
    return subprocess.Popen(  # noqa: S603 - our own program
        [program, "move", "--data-dir", str(data_dir)], env={**os.environ, "RPZ_AUTH_MOVE_TO": url}
    )


def _wait_for_mark(url: str) -> None:
    """Return once an authority is being moved to the target: before, one that starts would found another."""
    deadline = time.monotonic() + START_TIMEOUT
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            try:
                ((mark,),) = connection.execute("SELECT moved_to FROM meta").fetchall()
                if mark is not None:
                    return
            except psycopg.errors.UndefinedTable:
                pass
            if time.monotonic() > deadline:
                raise SystemExit("the move did not begin")
            time.sleep(0.1)


def _longest(times: Sequence[float]) -> float:
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)
