from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
from rpz_auth_server.storage.postgres.store import PostgresStore
from rpz_auth_server.storage.sqlite import SqliteStore
from rpz_auth_server.storage.store import Store
from server.storage.build import NOW
from support.clock import Clock
from support.postgres import PostgresServer


class Backend(Protocol):
    """A database that any number of stores can be opened on, as if each were another process."""

    async def open(self, *, wall: Clock | None = None, monotonic: Clock | None = None) -> Store: ...

    async def close(self) -> None: ...


class SqliteBackend:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "auth.db"
        self._opened: list[SqliteStore] = []

    async def open(self, *, wall: Clock | None = None, monotonic: Clock | None = None) -> SqliteStore:
        store = await SqliteStore.open(self.path, clock=wall or Clock(NOW), monotonic=monotonic or Clock(0.0))
        self._opened.append(store)
        return store

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


class PostgresBackend:
    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[PostgresStore] = []

    async def open(self, *, wall: Clock | None = None, monotonic: Clock | None = None) -> PostgresStore:
        store = await PostgresStore.open(
            self.url, clock=wall or Clock(NOW), monotonic=monotonic or Clock(0.0)
        )
        self._opened.append(store)
        return store

    async def close(self) -> None:
        for store in self._opened:
            await store.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Every backend in turn; another joins by its line here."""
    backend: Backend
    if request.param == "sqlite":
        backend = SqliteBackend(tmp_path)
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        backend = PostgresBackend(server.create_database())
    yield backend
    await backend.close()


@pytest.fixture
async def store(backend: Backend) -> Store:
    return await backend.open()


@pytest.fixture
async def sqlite_backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path)
    yield backend
    await backend.close()


@pytest.fixture
async def postgres_backend(postgres: PostgresServer) -> AsyncIterator[PostgresBackend]:
    backend = PostgresBackend(postgres.create_database())
    yield backend
    await backend.close()
