"""An authority moves from SQLite to PostgreSQL under load, and nobody loses what was promised."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import psycopg
import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.storage import file, rows
from rpz_auth_server.storage import move as moving
from rpz_auth_server.storage.lock import FileLock
from rpz_auth_server.storage.postgres.session import Address
from rpz_auth_server.storage.postgres.store import PostgresStore, make_tables
from rpz_auth_server.storage.sql import INCOMING
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Commit
from rpz_auth_server.worker import MOVED
from server.storage.build import APP_ID, a_grant, an_app, statement
from support.authority import START_TIMEOUT, AuthorityProcess, reason
from support.orders import Verifying, orders_service
from support.postgres import PostgresServer

ISSUER = ("--issuer", "https://auth.example")


def move(data_dir: Path, url: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("rpz-auth-server")
    return subprocess.run(  # noqa: S603 - our own program
        [str(program), "move", "--data-dir", str(data_dir)],
        env={**os.environ, "RPZ_AUTH_MOVE_TO": url},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@contextlib.contextmanager
def waiting_authority(data_dir: Path, url: str, *flags: str) -> Iterator[Future[AuthorityProcess]]:
    """An authority that was started on a database which another is being moved to."""
    with psycopg.connect(url, autocommit=True) as connection:  # as the move does first
        connection.execute("UPDATE meta SET moved_to = %s", [INCOMING])
    logs = set(data_dir.parent.glob("*.log"))
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(AuthorityProcess, data_dir, *flags, "--database", url)
        deadline = time.monotonic() + START_TIMEOUT
        while not any(
            "is being moved to this database" in log.read_text()
            for log in set(data_dir.parent.glob("*.log")) - logs
        ):
            assert not starting.done(), starting.result()
            assert time.monotonic() < deadline
            time.sleep(0.05)  # another process is at it
        try:
            yield starting
        finally:
            authority = starting.result(START_TIMEOUT)
            if authority.process.poll() is None:
                authority.kill()


def test_live_authority_moves_and_nothing_is_lost_while_verification_goes_on(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    data_dir, url = tmp_path / "data", postgres.create_database()
    config = tmp_path / "config.toml"
    config.write_text("refresh_limit = 0\n")
    flags = ("--config", str(config), *ISSUER)
    old = AuthorityProcess(data_dir, *flags)
    client = old.create_client()
    tokens = [old.exchange(client, old.issue_code(client, f"user:{number}")) for number in range(20)]
    revoked = old.exchange(client, old.issue_code(client, "user:gone"))
    old.revoke(client, revoked.refresh_token)
    newest = {number: token.refresh_token for number, token in enumerate(tokens)}
    calls = 0
    ended: list[grpc.StatusCode] = []

    def refresh() -> None:  # until the source is fenced
        nonlocal calls
        while True:
            for number, token in newest.items():
                try:
                    newest[number] = old.refresh(client, token).refresh_token
                except grpc.RpcError as error:
                    ended.append(error.code())
                    return
                calls += 1

    verifier_file = old.create_verifier(tmp_path / "verifier.json")
    asyncio.run(make_tables(Address(url)))
    here = ("--grpc-address", old.address)
    with (
        orders_service(verifier_file) as service,
        waiting_authority(data_dir, url, *flags, *here) as starting,
        Verifying(service, f"Bearer {tokens[0].access_token}") as verifying,
    ):
        load = threading.Thread(target=refresh)
        load.start()
        done = move(data_dir, url)
        assert done.returncode == 0, done.stderr
        load.join(30)
        assert calls
        assert ended == [grpc.StatusCode.UNAVAILABLE]
        new = starting.result(START_TIMEOUT)
        assert old.wait() == MOVED, old.log.read_text()
        for token in newest.values():
            assert new.refresh(client, token).access_token
        with pytest.raises(grpc.RpcError) as refused:
            new.refresh(client, revoked.refresh_token)
        assert reason(refused.value) == "GRANT_INVALID"
        new.revoke(client, newest[1])
        service.wait_for(f"Bearer {tokens[1].access_token}", "TOKEN_INVALID")
        assert service.answer(f"Bearer {revoked.access_token}") == "TOKEN_INVALID"
        assert new.stop() == 0
    assert verifying.passed
    assert verifying.refused == []
    with pytest.raises(AssertionError, match="was moved"):
        AuthorityProcess(data_dir, *flags)
    assert "finished" in move(data_dir, url).stderr


def test_an_authority_that_waits_for_a_move_ends_on_a_signal(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url, log = postgres.create_database(), tmp_path / "log"
    asyncio.run(make_tables(Address(url)))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE meta SET moved_to = %s", [INCOMING])
    program = str(Path(sys.executable).with_name("rpz-auth-server"))
    addresses = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
    command = [program, "serve", "--data-dir", str(tmp_path / "data"), *addresses, "--database", url]
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, stdout=subprocess.PIPE, stderr=file
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while "is being moved to this database" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)  # another process is at it
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == b""
        assert process.returncode == 0
        assert "Traceback" not in log.read_text()
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE meta SET moved_to = NULL")  # lets it go
        process.kill()
        process.communicate()


def _silent(_what: str, _done: int, _total: int) -> None:
    pass


async def test_move_that_failed_behind_the_fence_lets_neither_live_and_is_run_again(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, url = tmp_path / "auth.db", postgres.create_database()
    source = await SqliteStore.open(path)
    grants = [a_grant() for _ in range(30)]
    await source.commit(Commit(rows=(an_app(), *grants)))
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    await make_tables(Address(url))
    open_target = moving._open_target

    def fail(*_: object) -> None:
        raise ConfigurationError("the cable was pulled")

    monkeypatch.setattr(moving, "_open_target", fail)
    with pytest.raises(ConfigurationError, match="cable"):
        moving.move(path, lock, url, "the target", _silent)
    await source.close()
    with pytest.raises(ConfigurationError, match="was moved"):
        await SqliteStore.open(path)
    with pytest.raises(ConfigurationError, match="not finished"):
        await PostgresStore.open(url)
    with pytest.raises(ConfigurationError, match="moved to the target already"):
        moving.move(path, lock, url, "another target", _silent)
    monkeypatch.setattr(moving, "_open_target", open_target)
    moving.move(path, lock, url, "the target", _silent)
    target = await PostgresStore.open(url)
    assert await target.app(APP_ID) == an_app()
    assert [await target.grant(grant.grant_id) for grant in grants] == grants
    await target.close()
    lock.close()


async def test_rows_that_change_while_the_bulk_is_copied_arrive(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, url = tmp_path / "auth.db", postgres.create_database()
    source = await SqliteStore.open(path)
    changed, deleted, added = a_grant(), a_grant(), a_grant()
    await source.commit(Commit(rows=(an_app(), changed, deleted)))
    await make_tables(Address(url))
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    copy_all = moving._copy_all

    def copy_then_change(*arguments: object) -> int:
        copied = copy_all(*arguments)  # type: ignore[arg-type]
        with contextlib.closing(file.connect(path)) as other:
            file.run(other, rows.write(replace(changed, version=2, generation=7)))
            file.run(other, rows.write(added))
            other.execute("DELETE FROM grants WHERE grant_id = ?", (deleted.grant_id,))
        return copied

    monkeypatch.setattr(moving, "_copy_all", copy_then_change)
    moving.move(path, lock, url, "the target", _silent)
    await source.close()
    target = await PostgresStore.open(url)
    assert await target.grant(changed.grant_id) == replace(changed, version=2, generation=7)
    assert await target.grant(deleted.grant_id) is None
    assert await target.grant(added.grant_id) == added
    await target.close()
    lock.close()


async def test_difference_between_source_and_target_is_seen(postgres: PostgresServer, tmp_path: Path) -> None:
    path, url = tmp_path / "auth.db", postgres.create_database()
    source = await SqliteStore.open(path)
    await source.commit(Commit(rows=(an_app(), a_grant())))
    await source.close()
    await make_tables(Address(url))
    target = await PostgresStore.open(url)
    await target._write(
        statement(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.subject := 'acme:mallory'; RETURN NEW; END $$"
        )
    )
    await target._write(
        statement("CREATE TRIGGER spoil BEFORE INSERT ON grants FOR EACH ROW EXECUTE FUNCTION spoil()")
    )
    await target.close()
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    with pytest.raises(ConfigurationError, match="does not come back"):
        moving.move(path, lock, url, "the target", _silent)
    again = await SqliteStore.open(path)  # not fenced
    await again.close()
    lock.close()
