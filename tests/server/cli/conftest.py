"""A real authority for the tests of the command, and a false one for what a real one never says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from rpz.auth.v1 import administration_service_pb2_grpc, app_service_pb2_grpc
from server.cli.command import Cli
from support.authority import AuthorityProcess, running_authority


class FalseAuthority(Protocol):
    """Serves the methods that are given, without TLS, and returns the command with credentials for it."""

    def __call__(self, **methods: Callable[[Any, Any], object]) -> Cli: ...


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorityProcess]:
    with running_authority(tmp_path_factory.mktemp("cli") / "data") as running:
        yield running


@pytest.fixture
def cli(authority: AuthorityProcess) -> Cli:
    return Cli(authority.data_dir / "bootstrap.json")


@pytest.fixture
def false_authority(tmp_path: Path) -> Iterator[FalseAuthority]:
    server = grpc.server(ThreadPoolExecutor(2))

    def start(**methods: Callable[[Any, Any], object]) -> Cli:
        bases = (
            app_service_pb2_grpc.AppServiceServicer,
            administration_service_pb2_grpc.AdministrationServiceServicer,
        )
        servicer: Any = type("Servicer", bases, {})()
        for name, method in methods.items():
            setattr(servicer, name, method)
        app_service_pb2_grpc.add_AppServiceServicer_to_server(servicer, server)
        administration_service_pb2_grpc.add_AdministrationServiceServicer_to_server(servicer, server)
        port = server.add_secure_port(
            "127.0.0.1:0", grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
        )
        server.start()
        path = tmp_path / "false.json"
        content = {"grpc_address": f"127.0.0.1:{port}", "issuer": "https://localhost", "insecure": True}
        path.write_text(json.dumps({**content, "app_id": "someone", "api_token": "rpzt_made-up"}))
        return Cli(path)

    yield start
    server.stop(None).wait()
