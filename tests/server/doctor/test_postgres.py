"""The doctor on a database of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rpz_auth_server.doctor.command import examine
from rpz_auth_server.doctor.finding import State
from rpz_auth_server.serving import open_authority
from rpz_auth_server.settings import Settings
from server.doctor.conftest import NOBODY_LISTENS, problems
from support.postgres import PostgresServer

ERROR, WARNING = State.ERROR, State.WARNING


@pytest.fixture
def url(postgres: PostgresServer, tmp_path: Path) -> str:
    url = postgres.create_database()

    async def found() -> None:
        settings = Settings.load({"data_dir": tmp_path, "database": url}, {})
        async with AsyncExitStack() as cleanup:
            await open_authority(settings, {}, cleanup)

    asyncio.run(found())
    return url


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def look(folder: Path, url: str, check: str, now: float | None = None) -> list[tuple[State, str]]:
    flags = {
        "grpc_address": NOBODY_LISTENS,
        "http_address": NOBODY_LISTENS,
        "issuer": "https://localhost:8471",
    }
    found = asyncio.run(examine({"data_dir": folder, "database": url, **flags}, {}, now=now))
    return [each for each in problems(found, check) if "no checksums" not in each[1]]


def test_each_check_of_a_server_fails_when_it_should(
    url: str, admin: psycopg.Connection[tuple[Any, ...]], tmp_path: Path
) -> None:
    for check in ("database", "clock", "audit records", "master keys", "signing keys", "files"):
        assert look(tmp_path, url, check) == []
    for off, side in ((-100, "ahead of"), (100, "behind")):
        ((state, found),) = look(tmp_path, url, "clock", now=time.time() + off)
        assert (state, f"{side} this machine's" in found) == (ERROR, True)
    admin.execute("INSERT INTO audit VALUES (7, 1, 'a', 'b', '', '', '{}', 'x')")
    admin.execute("INSERT INTO audit VALUES (9, 1, 'a', 'b', '', '', '{}', 'x')")
    assert look(tmp_path, url, "audit records")[0][0] is ERROR
    admin.execute("UPDATE meta SET moved_to = 'elsewhere'")
    assert look(tmp_path, url, "database") == [(ERROR, "it was moved (elsewhere), and is fenced")]
    admin.execute("INSERT INTO migrations VALUES ('m9999_future')")
    admin.execute("UPDATE meta SET moved_to = NULL")
    assert look(tmp_path, url, "database") == [(ERROR, "it is of a newer rpz-auth-server")]


def test_server_that_is_missing_is_told_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://rpz:a-password@127.0.0.1:1/none"
    ((state, found),) = look(tmp_path, url, "database")
    assert (state, "a-password" in found) == (ERROR, False)


def test_schema_without_an_authority_is_told(postgres: PostgresServer, tmp_path: Path) -> None:
    ((state, found),) = look(tmp_path, postgres.create_database(), "database")
    assert (state, found.endswith("holds no authority")) == (ERROR, True)
