"""Several workers on one port and one database, under a supervisor."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import grpc
import httpx
import psycopg
import pytest
from rpz_auth_server.storage.lock import FileLock
from support.authority import AuthorityProcess, refresh_request, running_authority
from support.orders import orders_service
from support.postgres import PostgresServer

pytestmark = pytest.mark.timeout(400)  # three processes start one after another

WORKERS = 2
CLIENTS = 8
HTTP_CLIENTS = 4
CALLS = int(os.environ.get("RPZ_TEST_ROLLING_CALLS", "200"))
"""How many at least are made before, while and after workers are replaced; more for a longer proof."""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    """The URL of a PostgreSQL database; None for SQLite."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


@pytest.fixture(scope="module")
def authority(database: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    folder = tmp_path_factory.mktemp("workers")
    config = folder / "workers.toml"
    config.write_text("connection_age = 1\nrefresh_limit = 0\n")
    flags = ["--config", str(config), "--workers", str(WORKERS)]
    if database is not None:
        flags += ["--database", database]
    with running_authority(folder / "data", *flags) as running:
        yield running


def workers_of(authority: AuthorityProcess) -> set[int]:
    """The process ids of the supervisor's children."""
    supervisor = authority.process.pid
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    return set(map(int, children.split()))


def wait_for(condition: str, holds: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


class Load:
    """Clients that refresh without a pause, each on a channel of its own, as long as the block lasts."""

    def __init__(self, authority: AuthorityProcess) -> None:
        self._authority = authority
        self._client = authority.create_client()
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(CLIENTS)
        self.calls = 0
        self.failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        tokens = [
            self._authority.exchange(self._client, self._authority.issue_code(self._client)).refresh_token
            for _ in range(CLIENTS)
        ]
        self._running = [self._pool.submit(self._refresh, token) for token in tokens]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()

    def _refresh(self, token: str) -> None:
        with self._authority.connect() as tokens:
            while not self._stop.is_set():
                try:
                    token = tokens.Refresh(refresh_request(self._client, token)).refresh_token
                    self.calls += 1
                except grpc.RpcError as error:
                    self.failures[f"{error.code()} {error.details()}"] += 1


class HttpLoad:
    """Clients that ask for tokens over HTTPS without a pause: half keep their connection, half never do."""

    def __init__(self, authority: AuthorityProcess) -> None:
        self._authority = authority
        self._client = authority.create_client()
        self._trusted = ssl.create_default_context(cafile=authority.bootstrap["ca_certificate"])
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(HTTP_CLIENTS)
        self.calls = [0] * HTTP_CLIENTS
        self.failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._running = [self._pool.submit(self._ask, number) for number in range(HTTP_CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()

    def _ask(self, number: int) -> None:
        headers = {} if number % 2 else {"connection": "close"}
        with httpx.Client(
            base_url=self._authority.url, verify=self._trusted, timeout=60, trust_env=False, headers=headers
        ) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(
                        "/oauth/token",
                        data={"grant_type": "client_credentials"},
                        auth=(self._client.app_id, self._client.secret),
                    )
                except httpx.TransportError as error:
                    self.failures[f"{number % 2}: {error!r}"] += 1
                else:
                    self.calls[number] += 1
                    if answer.status_code != 200:
                        self.failures[answer.text] += 1


def test_supervisor_knows_no_grpc() -> None:
    program = "import sys, rpz_auth_server.supervisor; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0  # noqa: S603 - ourselves


def test_workers_are_replaced_one_after_another_without_a_failed_call(authority: AuthorityProcess) -> None:
    before = workers_of(authority)
    assert len(before) == WORKERS
    with Load(authority) as load, HttpLoad(authority) as http:
        wait_for("clients are at work", lambda: load.calls > CALLS // 2 and min(http.calls) > CALLS // 40)
        authority.process.send_signal(signal.SIGHUP)
        wait_for(
            "all workers are others",
            lambda: not workers_of(authority) & before and len(workers_of(authority)) == WORKERS,
        )
        enough, asked = load.calls + CALLS // 2, min(http.calls) + CALLS // 40
        wait_for("clients are at work after it", lambda: load.calls > enough and min(http.calls) > asked)
    assert load.failures == {}
    assert http.failures == {}


def test_worker_that_crashes_is_started_again(authority: AuthorityProcess) -> None:
    before = workers_of(authority)
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    wait_for(
        "another has taken its place",
        lambda: victim not in workers_of(authority) and len(workers_of(authority)) == WORKERS,
    )
    assert len(workers_of(authority) & before) == WORKERS - 1
    client = authority.create_client()
    assert authority.exchange(client, authority.issue_code(client)).access_token


def test_a131_what_one_worker_revokes_verifiers_on_all_refuse_at_once(
    authority: AuthorityProcess, tmp_path: Path
) -> None:
    client = authority.create_client()
    verifier_file = authority.create_verifier(tmp_path / "verifier.json")
    with contextlib.ExitStack() as stack:
        # As many as make it all but certain that each worker has one.
        services = [stack.enter_context(orders_service(verifier_file)) for _ in range(5)]
        for _ in range(3):
            token = authority.exchange(client, authority.issue_code(client))
            credential = f"Bearer {token.access_token}"
            assert [service.answer(credential) for service in services] == [None] * len(services)
            authority.revoke(client, token.refresh_token)
            revoked = time.monotonic()
            for service in services:
                service.wait_for(credential, "TOKEN_INVALID")
            assert time.monotonic() - revoked < 2  # on a machine that does much else


@contextlib.contextmanager
def writers_held_up(authority: AuthorityProcess, database: str | None) -> Iterator[None]:
    """No commit ends as long as the block lasts."""
    if database is None:
        lock = FileLock(authority.data_dir / "rpz-auth.db.lock")
        with lock.held():
            yield
        lock.close()
    else:
        with psycopg.connect(database) as connection:
            connection.execute("SELECT 1 FROM meta FOR UPDATE")
            yield


def generation(authority: AuthorityProcess, database: str | None, subject: str) -> int:
    select = f"SELECT generation FROM grants WHERE subject = '{subject}'"  # noqa: S608 - of this test
    if database is not None:
        with psycopg.connect(database) as connection:
            ((number,),) = connection.execute(select.encode()).fetchall()
    else:
        with contextlib.closing(sqlite3.connect(authority.data_dir / "rpz-auth.db")) as file:
            ((number,),) = file.execute(select).fetchall()
    return int(number)


def test_deadline_of_a_client_cancels_no_commit(authority: AuthorityProcess, database: str | None) -> None:
    client = authority.create_client()
    token = authority.exchange(client, authority.issue_code(client, "user:hasty")).refresh_token
    before = generation(authority, database, "user:hasty")
    request = refresh_request(client, token)
    with authority.connect() as tokens:
        with pytest.raises(grpc.RpcError):  # it is connected now
            tokens.Refresh(refresh_request(client, "rpzr_none"), timeout=60)
        with writers_held_up(authority, database):
            with pytest.raises(grpc.RpcError) as late:
                tokens.Refresh(request, timeout=0.5)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert generation(authority, database, "user:hasty") == before
            # Behind it on the same connection, so that the authority has heard that nobody waits any more.
            with pytest.raises(grpc.RpcError):
                tokens.Refresh(refresh_request(client, "rpzr_none"), timeout=60)
    wait_for("it is committed", lambda: generation(authority, database, "user:hasty") == before + 1)
    successor = authority.refresh(client, token).refresh_token  # the answer that was lost
    assert authority.refresh(client, successor).access_token


def test_supervisor_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    authority = AuthorityProcess(tmp_path / "data", "--workers", "2")
    workers = workers_of(authority)
    assert len(workers) == WORKERS
    authority.kill()
    wait_for("they have gone", lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))


def test_authority_that_cannot_start_says_why_and_does_not_try_for_ever(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "rpz-auth.db").touch(0o600)
    with pytest.raises(AssertionError, match="there is no key ring"):
        AuthorityProcess(tmp_path / "data", "--workers", "2")
