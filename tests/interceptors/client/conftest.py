"""A real authority without TLS, so that a proxy in front of it sees answers as they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rpz_auth
from support.authority import AuthorityProcess, Client, running_authority
from support.signed_in import unlimited


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    data_dir = tmp_path_factory.mktemp("clients") / "data"
    unlimited(data_dir)
    with running_authority(data_dir, "--insecure") as running:
        yield running


@pytest.fixture
def client(authority: AuthorityProcess) -> Client:
    return authority.create_client()


@pytest.fixture
def endpoint(authority: AuthorityProcess) -> Iterator[rpz_auth.TokenEndpoint]:
    with rpz_auth.TokenEndpoint(authority.address, tls=authority.tls) as opened:
        yield opened
