"""The program as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from server.cli.command import PROGRAM, Cli, Result, run
from support.authority import AuthorityProcess


def spawn(*arguments: str, stdin: str = "", **environ: str) -> Result:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("RPZ_AUTH_", "GRPC_"))}
    ended = subprocess.run(  # noqa: S603 - our own program
        [str(PROGRAM), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**base, **environ},
        check=False,
        timeout=60,
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


def test_version_is_that_of_the_distribution() -> None:
    assert spawn("--version") == Result(0, "rpz-auth 0.1.0\n", "")


def test_done_is_zero_refused_is_one_and_wrong_usage_two(cli: Cli) -> None:
    credentials = ("--credentials", str(cli.credentials))
    assert spawn(*credentials, "apps", "list", "--json").json["apps"]
    refused = spawn(*credentials, "apps", "get", "nobody")
    assert refused == Result(1, "", "NOT_FOUND: no such object among those of the caller\n")
    assert spawn(*credentials, "apps", "sing").code == 2


def test_lost_connection_says_so_and_nothing_else_does(authority: AuthorityProcess, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(json.dumps({**authority.bootstrap, "ca_certificate": None}))
    result = spawn("--credentials", str(path), "apps", "list")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("UNAVAILABLE: cannot reach ")  # and no line of grpc's own log before it
    assert "Traceback" not in result.err


def test_completion_is_offered_for_the_shell() -> None:
    result = spawn(_RPZ_AUTH_COMPLETE="complete_bash", COMP_WORDS="rpz-auth ap", COMP_CWORD="1")
    assert result.out.split() == ["apps", "api-tokens"]


@pytest.mark.parametrize(
    "path",
    [
        [],
        *(
            ["apps", verb]
            for verb in ("create", "list", "get", "update", "delete", "lock", "unlock", "end-tokens")
        ),
        *(["secrets", verb] for verb in ("create", "list", "revoke")),
        *(["api-tokens", verb] for verb in ("create", "list", "revoke")),
        ["codes", "issue"],
        *(["tokens", verb] for verb in ("exchange", "refresh", "revoke", "introspect")),
        ["subjects", "revoke"],
    ],
)
def test_every_command_explains_itself(path: list[str]) -> None:
    result = run([*path, "--help"])
    assert (result.code, result.err) == (0, "")
    for option in ("--credentials", "--json", "RPZ_AUTH_CREDENTIALS"):
        assert option in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines())


@pytest.mark.parametrize(
    "group", ["apps", "secrets", "api-tokens", "codes", "tokens", "grants", "audit", "issuer"]
)
def test_list_of_commands_cuts_no_sentence_short(group: str) -> None:
    _, *lines = run([group, "--help"], environ={"COLUMNS": "80"}).out.splitlines()
    assert [line for line in lines if line.endswith("...")] == []


def test_help_says_where_secrets_are_read_from() -> None:
    text = " ".join(run(["tokens", "exchange", "--help"]).out.split())
    for variable in ("RPZ_AUTH_CODE ", "RPZ_AUTH_CODE_VERIFIER", "RPZ_AUTH_CLIENT_SECRET"):
        assert variable in text
    assert "a terminal asks without echo" in text
