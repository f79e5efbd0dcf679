from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest
from rpz_auth_server.transport import descriptors


@pytest.fixture
def granted() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield descriptors.WANTED if hard == resource.RLIM_INFINITY else min(descriptors.WANTED, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a102_authority_takes_the_descriptors_that_the_system_grants(granted: int) -> None:
    descriptors.raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == granted
    descriptors.raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == granted


@pytest.mark.parametrize(
    ("files", "most"),
    [
        (resource.RLIM_INFINITY, 20_000),
        (65_536, 20_000),
        (20_000, 20_000 - 2 * 1000 - 256),
        (1024, 512),
        (1, 1),
    ],
)
def test_a102_connections_of_grpc_leave_those_of_http_and_the_database_their_descriptors(
    monkeypatch: pytest.MonkeyPatch, files: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, resource.RLIM_INFINITY))
    assert descriptors.left_for_grpc(20_000) == most
