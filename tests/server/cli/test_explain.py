"""`rpz-auth explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rpz_auth import credentials
from server.cli.command import RESOURCE, Cli

CALL = ("--resource", RESOURCE, "--scope", "orders.read", "--peer", "198.51.100.1")


@pytest.fixture
def created(cli: Cli) -> Any:
    app_id = cli.create_app("shop", "--allow", "192.0.2.0/24")
    options = ("--scope", "orders.read", "--resource", RESOURCE)
    return cli.json("api-tokens", "create", app_id, *options)


def test_each_step_is_told_and_the_credential_never(cli: Cli, created: Any, tmp_path: Path) -> None:
    header = credentials.format_basic(created["record"]["app_id"], created["api_token"])
    path = tmp_path / "header"
    path.write_text(header + "\n")
    ways: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        (("--token-file", str(path)), {}),
        ((), {"environ": {"RPZ_AUTH_TOKEN": header}}),
        ((), {"stdin": header + "\n"}),
    ]
    for options, given in ways:
        result = cli("explain", *CALL, *options, **given)
        assert (result.code, result.err) == (0, "")
        lines = [line.split(maxsplit=2) for line in result.out.splitlines()]
        assert [line[:2] for line in lines[:-1]] == [
            ["ok", "credential"],
            ["ok", "genuine"],
            ["ok", "resource"],
            ["ok", "expiry"],
            ["ok", "revocation"],
            ["ok", "app"],
            ["refused", "whitelist"],
            ["ok", "scopes"],
        ]
        assert result.out.splitlines()[-1] == "refused with ORIGIN_NOT_ALLOWED"
        assert created["api_token"] not in result.out
        assert header.removeprefix("Basic ") not in result.out
    answer = cli.json("explain", "--token-file", str(path))
    assert (answer["reason"], answer["app_id"]) == ("", created["record"]["app_id"])
    assert json.dumps(answer).find(created["api_token"]) == -1


def test_no_credential_is_an_argument(cli: Cli, created: Any) -> None:
    assert cli("explain", created["api_token"]).code == 2
