"""What a program imports: what its command needs, and nothing of the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz_auth_server.cli.program import app as client
from rpz_auth_server.main import app as server
from support.authority import AuthorityProcess, running_authority

REPORTING = (sys.executable, "-v")
"""A Python that writes the name of each module that it imports to standard error."""


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def imported(report: str) -> set[str]:
    """The packages in a report, and the modules below our own."""
    names = re.findall(r"^import '([\w.]+)' # ", report, re.MULTILINE)
    return {name if name.startswith("rpz") else name.partition(".")[0] for name in names}


def call(*arguments: str, **environ: str) -> tuple[str, set[str]]:
    """Run a program to its end: what it printed, and what it imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RPZ_AUTH_")}
    ended = subprocess.run(  # noqa: S603 - our own program
        [*REPORTING, program(arguments[0]), *arguments[1:]],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return ended.stdout, imported(ended.stderr)


@pytest.mark.parametrize("app", [client, server])
def test_list_of_commands_says_what_each_says_of_itself(app: typer.Typer) -> None:
    group: Any = typer.main.get_command(app)
    assert len(group.commands) >= 8
    for command in group.commands.values():
        assert command.help == command.load().get_short_help_str(limit=1000)


@pytest.mark.parametrize(
    ("name", "flags", "environ"),
    [
        ("rpz-auth", ["--help"], {}),
        ("rpz-auth", ["--version"], {}),
        (
            "rpz-auth",
            [],
            {"_RPZ_AUTH_COMPLETE": "complete_bash", "COMP_WORDS": "rpz-auth a", "COMP_CWORD": "1"},
        ),
        ("rpz-auth-server", ["--help"], {}),
        ("rpz-auth-server", ["--version"], {}),
    ],
)
def test_who_calls_no_command_waits_for_none(name: str, flags: list[str], environ: dict[str, str]) -> None:
    out, found = call(name, *flags, **environ)
    assert out
    assert {"typer", "rpz_auth_server.deferred"} <= found
    assert not found & {
        "cryptography",
        "google",
        "grpc",
        "joserfc",
        "rich",
        "rpz_auth",
        "sqlite3",
        "structlog",
    }


def test_client_imports_the_command_that_is_called_and_nothing_of_the_server(tmp_path: Path) -> None:
    with running_authority(tmp_path / "data") as authority:
        file = str(authority.data_dir / "bootstrap.json")
        _, found = call("rpz-auth", "--credentials", file, "apps", "list", "--json")
    assert {"grpc", "rpz_auth_server.cli.apps"} <= found
    assert not found & {"httpx", "psycopg", "sqlite_utils", "structlog", "rpz_auth_server.cli.audit"}


def test_server_on_sqlite_imports_nothing_that_only_others_need(tmp_path: Path) -> None:
    authority = AuthorityProcess(tmp_path / "data", prefix=REPORTING)
    try:
        authority.apps.ListApps(app_pb.ListAppsRequest())
    finally:
        assert authority.stop() == 0
    found = imported(authority.log.read_text())
    assert {"grpc", "sqlite_utils", "starlette", "uvloop", "rpz_auth_server.serving"} <= found
    assert not found & {"httpx", "prometheus_client", "psycopg", "rpz_auth_server.commands.move"}
