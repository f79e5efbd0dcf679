"""`rpz-auth codes`, `tokens` and `subjects`: an OAuth 2 client's life, by hand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from server.cli.command import REDIRECT_URI, RESOURCE, Cli

EXCHANGE = ("tokens", "exchange", "--redirect-uri", REDIRECT_URI)


@dataclass(frozen=True)
class Client:
    cli: Cli
    app_id: str
    secret: str = field(default="", repr=False)

    def issue(self, subject: str = "user:1", *options: str) -> Any:
        return self.cli.json(*self.issue_arguments(subject), *options)

    def issue_arguments(self, subject: str = "user:1") -> list[str]:
        options = ["--client-id", self.app_id, "--redirect-uri", REDIRECT_URI, "--scope", "orders.read"]
        return ["codes", "issue", *options, "--subject", subject]

    def exchange(self, subject: str = "user:1") -> Any:
        issued = self.issue(subject)
        return self.cli.json(
            *EXCHANGE,
            *("--client-id", self.app_id),
            stdin=f"{issued['code']}\n{issued['code_verifier']}\n{self.secret}\n",
        )


@pytest.fixture
def client(cli: Cli) -> Client:
    app_id = cli.create_app()
    return Client(cli, app_id, cli.json("secrets", "create", app_id)["client_secret"])


@pytest.fixture
def verifier(cli: Cli, tmp_path: Path) -> Cli:
    path = tmp_path / "orders.json"
    assert cli("apps", "create", "orders", "--verifier", str(path), "--resource", RESOURCE).code == 0
    return Cli(path)


def test_code_and_its_verifier_are_made_and_shown(client: Client) -> None:
    issued = client.issue()
    assert issued == {**issued, "expires_in": 60}
    assert set(issued) == {"code", "expires_in", "code_verifier"}
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", issued["code_verifier"])
    result = client.cli(*client.issue_arguments())
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(
        r"\nCode, good once within 60 seconds:\nrpzc_\S+\n\nCode verifier:\n\S{43}\n", result.out
    )


def test_challenge_of_somebody_elses_verifier_is_passed_on(client: Client) -> None:
    issued = client.issue("user:1", "--code-challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")
    assert set(issued) == {"code", "expires_in"}
    # RFC 7636, appendix B
    secrets = f"{issued['code']}\ndBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk\n{client.secret}\n"
    tokens = client.cli.json(*EXCHANGE, "--client-id", client.app_id, stdin=secrets)
    assert tokens["token_type"] == "Bearer"


def test_exchange_reads_code_verifier_and_secret_line_by_line(client: Client) -> None:
    tokens = client.exchange()
    assert tokens == {
        "access_token": tokens["access_token"],
        "token_type": "Bearer",
        "expires_in": 7200,
        "refresh_token": tokens["refresh_token"],
        "scopes": ["orders.read"],
    }


def test_exchange_takes_secrets_from_files_and_environment(client: Client, tmp_path: Path) -> None:
    issued = client.issue()
    code, secret = tmp_path / "code", tmp_path / "client-secret"
    code.write_text(issued["code"] + "\n")
    secret.write_text(client.secret)
    result = client.cli(
        *(*EXCHANGE, "--client-id", client.app_id, "--resource", RESOURCE),
        *("--code-file", str(code), "--client-secret-file", str(secret)),
        stdin="this is not read\n",
        # A file that is named wins over the environment.
        environ={"RPZ_AUTH_CODE": "rpzc_other", "RPZ_AUTH_CODE_VERIFIER": issued["code_verifier"]},
    )
    assert (result.code, result.err) == (0, "")
    *_, first, access_token, _, second, refresh_token = result.out.splitlines()
    assert (first, second) == (
        "Access token, shown this once; keep it now:",
        "Refresh token, shown this once; keep it now:",
    )
    assert access_token.startswith("eyJ")
    assert refresh_token.startswith("rpzr_")


def test_app_without_a_secret_says_so(cli: Cli) -> None:
    client = Client(cli, cli.create_app(kind="frontend"))
    issued = client.issue()
    arguments = (*EXCHANGE, "--client-id", client.app_id, "--public")
    assert cli(*arguments, "--client-secret-file", "secret", stdin="x\ny\n").code == 2
    tokens = cli.json(*arguments, stdin=f"{issued['code']}\n{issued['code_verifier']}\n")
    assert tokens["scopes"] == ["orders.read"]
    # Or gives an empty one.
    renewed = cli.json(
        "tokens", "refresh", "--client-id", client.app_id, stdin=f"{tokens['refresh_token']}\n"
    )
    assert renewed["refresh_token"] != tokens["refresh_token"]


def test_refresh_renews(client: Client) -> None:
    tokens = client.exchange()
    renewed = client.cli.json(
        *(
            "tokens",
            "refresh",
            "--client-id",
            client.app_id,
            "--scope",
            "orders.read",
            "--resource",
            RESOURCE,
        ),
        environ={
            "RPZ_AUTH_REFRESH_TOKEN": tokens["refresh_token"],
            "RPZ_AUTH_CLIENT_SECRET": client.secret,
        },
    )
    assert set(renewed) == set(tokens)
    assert renewed["refresh_token"] != tokens["refresh_token"]


def test_spent_code_is_refused_and_not_repeated_in_the_error(client: Client) -> None:
    issued = client.issue()
    secrets = f"{issued['code']}\n{issued['code_verifier']}\n{client.secret}\n"
    arguments = (*EXCHANGE, "--client-id", client.app_id)
    assert client.cli(*arguments, stdin=secrets).code == 0
    result = client.cli(*arguments, stdin=secrets)
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"GRANT_INVALID: .*\n", result.err)
    assert not any(secret in result.err for secret in secrets.split())


def test_introspection_tells_a_verifier_what_a_token_means(client: Client, verifier: Cli) -> None:
    token = client.exchange()["access_token"]
    meaning = verifier.json("tokens", "introspect", environ={"RPZ_AUTH_TOKEN": token})
    assert meaning == {
        **meaning,
        "active": True,
        "scopes": ["orders.read"],
        "client_id": client.app_id,
        "sub": "user:1",
        "aud": [RESOURCE],
    }
    shown = verifier("tokens", "introspect", stdin=token).out
    assert re.search(r"^Subject +user:1 *$", shown, re.MULTILINE)
    assert token not in shown


def test_api_token_that_never_expires_is_shown_as_such(client: Client, verifier: Cli) -> None:
    rights = ("--scope", "orders.read", "--resource", RESOURCE)
    token = client.cli.json("api-tokens", "create", client.app_id, *rights)["api_token"]
    shown = verifier("tokens", "introspect", stdin=token).out
    assert re.search(r"^Expires \(UTC\) +never *$", shown, re.MULTILINE)


def test_revoked_token_is_not_active(client: Client, verifier: Cli, tmp_path: Path) -> None:
    tokens = client.exchange()
    file = tmp_path / "refresh-token"
    file.write_text(tokens["refresh_token"])
    arguments = ("tokens", "revoke", "--client-id", client.app_id, "--token-file")
    assert client.cli.json(*arguments, str(file), stdin=client.secret) == {}
    shown = client.cli(*arguments, "-", stdin=f"unknown\n{client.secret}\n")
    assert (shown.code, shown.out) == (0, "If this token was the App's, it is revoked.\n")
    result = verifier("tokens", "introspect", stdin=tokens["access_token"])
    assert result.out.startswith("Not active: ")


def test_everything_of_a_subject_is_revoked(client: Client) -> None:
    client.exchange("user:gone")
    client.issue("user:gone")
    assert client.cli.json("subjects", "revoke", "user:gone") == {"revoked_grants": 2}
    result = client.cli("subjects", "revoke", "user:gone")
    assert (result.code, result.out) == (0, "Grants of user:gone revoked: 0\n")


def test_wrong_client_secret_is_refused_without_advice_about_the_credentials_file(client: Client) -> None:
    result = client.cli("tokens", "revoke", "--client-id", client.app_id, stdin="x\nwrong\n")
    assert (result.code, result.out) == (1, "")
    assert result.err == "CLIENT_INVALID: client authentication failed\n"


def test_missing_secret_is_wrong_usage_that_names_the_ways_to_give_it(cli: Cli, tmp_path: Path) -> None:
    result = cli(*EXCHANGE, "--client-id", "x")
    assert result.code == 2
    for way in ("--code-file", "RPZ_AUTH_CODE", "standard input"):
        assert way in result.err
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xffcanary")
    for path in (tmp_path / "missing", binary):
        result = cli("tokens", "introspect", "--token-file", str(path))
        assert result.code == 2
        assert str(path) in result.err
        assert "canary" not in result.err


@pytest.mark.parametrize(
    "command",
    [["codes", "issue"], *(["tokens", verb] for verb in ("exchange", "refresh", "revoke", "introspect"))],
)
def test_no_secret_can_be_given_as_an_argument(cli: Cli, command: list[str]) -> None:
    for name in ("client-secret", "code", "code-verifier", "refresh-token", "token"):
        result = cli(*command, f"--{name}", json.dumps("canary"))
        assert result.code == 2
        assert "No such option" in result.err


def test_r208_api_token_is_exchanged(cli: Cli, verifier: Cli) -> None:
    app_id = cli.create_app()
    token = cli.json(
        *("api-tokens", "create", app_id, "--scope", "orders.read", "--scope", "orders.write"),
        *("--resource", RESOURCE),
    )["api_token"]
    arguments = ("tokens", "token-exchange", "--client-id", app_id, "--scope", "orders.read")
    answer = cli.json(*arguments, stdin=f"{token}\n")
    assert answer == {
        "access_token": answer["access_token"],
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": answer["expires_in"],
        "scopes": ["orders.read"],
    }
    described = verifier.json("tokens", "introspect", stdin=answer["access_token"])
    assert (described["active"], described["client_id"]) == (True, app_id)
    result = cli(*arguments, environ={"RPZ_AUTH_TOKEN": token})
    assert (result.code, result.err) == (0, "")
    assert "Access token" in result.out
    assert "Refresh token" not in result.out
