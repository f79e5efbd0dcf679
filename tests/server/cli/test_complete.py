"""Both programs as a whole: nothing is left out, and everything explains itself."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from rpz.auth.v1 import (
    administration_service_pb2,
    app_service_pb2,
    token_service_pb2,
    verification_service_pb2,
)
from rpz_auth_server import cli
from rpz_auth_server.cli.program import app as client
from rpz_auth_server.deferred import Deferred
from rpz_auth_server.main import app as server
from server.cli.command import PROGRAM

NO_COMMAND = dict.fromkeys(
    ("VerifyApiToken", "GetStanding", "Watch"),
    "what a service's library asks; `tokens introspect` and `explain` tell a person the same",
)
NO_JSON = {"rpz-auth-server serve": "a service, whose log is JSON (--log-format json)"}


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands that do something, with their paths."""
    if isinstance(command, Deferred):
        command = command.load()
    if not isinstance(command, click.Group) and not hasattr(command, "commands"):
        yield path, command
        return
    for name, each in command.commands.items():
        yield from commands(each, f"{path} {name}")


ALL = dict(
    [
        *commands(typer.main.get_command(client), "rpz-auth"),
        *commands(typer.main.get_command(server), "rpz-auth-server"),
    ]
)


def called() -> set[str]:
    """The methods that commands call, as in `authority.tokens.IssueCode`."""
    stubs = {"apps", "tokens", "as_client", "administration"}
    return {
        node.attr
        for path in Path(cli.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr in stubs
    }


def test_every_rpc_has_a_command_or_a_reason() -> None:
    files = (administration_service_pb2, app_service_pb2, token_service_pb2, verification_service_pb2)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    methods = {method.name for service in services for method in service.methods}
    assert methods - called() == set(NO_COMMAND)
    assert called() <= methods


def test_commands_are_all_there() -> None:
    assert {"rpz-auth explain", "rpz-auth audit export", "rpz-auth-server keys add"} <= ALL.keys()
    assert len(ALL) >= 48


@pytest.mark.parametrize("path", ALL)
def test_every_command_and_option_has_help_and_prints_json(path: str) -> None:
    command = ALL[path]
    assert command.help
    options = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    assert [option.name for option in options if not getattr(option, "help", None)] == []
    assert ("--json" in {name for option in options for name in option.opts}) != (path in NO_JSON)


@pytest.mark.parametrize("app", [client, server])
def test_no_sentence_is_cut_in_a_list_of_commands_at_80_columns(app: typer.Typer) -> None:
    cut = []

    def look(group: Any) -> None:
        room = 80 - 6 - max(map(len, group.commands))
        for name, each in group.commands.items():
            cut.extend([name] if each.get_short_help_str(room).endswith("...") else [])
            loaded = each.load() if isinstance(each, Deferred) else each
            if hasattr(loaded, "commands"):
                look(loaded)

    look(typer.main.get_command(app))
    assert cut == []


def test_bash_completes_commands_and_options() -> None:
    script = f"""
        set -e
        eval "$(_RPZ_AUTH_COMPLETE=source_bash {PROGRAM})"
        COMP_WORDS=({PROGRAM} audit ex) COMP_CWORD=2
        _rpz_auth_completion {PROGRAM}
        echo "${{COMPREPLY[@]}}"
        COMP_WORDS=({PROGRAM} explain --sc) COMP_CWORD=2
        _rpz_auth_completion {PROGRAM}
        echo "${{COMPREPLY[@]}}"
        complete -p rpz-auth
    """
    ended = subprocess.run(  # noqa: S603 - our own program
        ["/bin/bash", "--norc", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        "export",
        "--scope",
        "complete -o default -F _rpz_auth_completion rpz-auth",
    ]
