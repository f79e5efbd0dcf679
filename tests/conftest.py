"""What holds for the whole test run."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
from support.at_rest import credentials_in
from support.postgres import PostgresServer, running_postgres

# A busy machine is slow, which says nothing about the code.
hypothesis.settings.register_profile(
    "project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def no_credential_at_rest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A122, A124: whatever the tests issue, no database, write-ahead log or log file has it at the end."""
    yield
    assert credentials_in(tmp_path_factory.getbasetemp()) == []


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process, each of which makes a database of its own."""
    with running_postgres() as server:
        yield server
        server.stop()
        # Whatever was written to any table stands in the write-ahead log, too.
        assert credentials_in(server.data / "pg_wal", every=True) == []
        assert credentials_in(server.folder / "log", every=True) == []
