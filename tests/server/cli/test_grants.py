"""`rpz-auth grants`."""

from __future__ import annotations

import json
import re

from server.cli.command import RESOURCE, Cli


def issue(cli: Cli, app_id: str, subject: str) -> None:
    cli.json(
        *("codes", "issue", "--client-id", app_id, "--redirect-uri", "https://shop.example/callback"),
        *("--scope", "orders.read", "--subject", subject),
    )


def test_r212_grants_are_listed_and_revoked(cli: Cli) -> None:
    app_id = cli.create_app()
    administrator = json.loads(cli.credentials.read_text())["app_id"]
    for subject in ("user:1", "user:2"):
        issue(cli, app_id, subject)
    found = cli.json("grants", "list", "--client-id", app_id, "--subject", "user:1")["grants"]
    assert found == [
        {
            "grant_id": found[0]["grant_id"],
            "client_id": app_id,
            "subject": "user:1",
            "scopes": ["orders.read"],
            "resources": [RESOURCE],
            "create_time": found[0]["create_time"],
            "expire_time": found[0]["expire_time"],
            "issued_by": f"app:{administrator}",
        }
    ]
    grant_id = found[0]["grant_id"]
    table = cli("grants", "list", "--client-id", app_id).out
    assert re.search(
        rf"^{grant_id} +{app_id} +\S+ \S+ +never +user:1 +app:{administrator} +orders\.read *$",
        table,
        re.MULTILINE,
    )
    assert cli("grants", "revoke", grant_id).out == f"{grant_id} is revoked\n"
    assert cli.json("grants", "revoke", grant_id) == {}
    (left,) = cli.json("grants", "list", "--client-id", app_id)["grants"]
    assert left["subject"] == "user:2"


def test_an_app_or_a_user_must_be_named(cli: Cli) -> None:
    assert cli("grants", "list").code == 2


def test_unknown_grant_is_an_error(cli: Cli) -> None:
    result = cli("grants", "revoke", "A" * 22)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("NOT_FOUND: ")
