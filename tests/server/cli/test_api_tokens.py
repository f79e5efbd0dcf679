"""`rpz-auth api-tokens`."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

from rpz_auth_server.transport.tls.development import issue_client_certificate
from server.cli.command import RESOURCE, Cli
from support.authority import AuthorityProcess

RIGHTS = ("--scope", "orders.read", "--resource", RESOURCE)


def test_token_is_shown_once_on_a_line_of_its_own(cli: Cli) -> None:
    app_id = cli.create_app()
    result = cli(
        "api-tokens", "create", app_id, *RIGHTS, "--name", "ci", "--expires-at", "2100-01-01T00:00:00Z"
    )
    assert (result.code, result.err) == (0, "")
    *_, mark, value = result.out.splitlines()
    assert mark == "API token, shown this once; keep it now:"
    assert re.fullmatch(r"rpzt_[A-Za-z0-9_-]+", value)
    listed = cli("api-tokens", "list", app_id).out
    assert re.search(r"^\S{22}  live   2100-01-01 00:00  never +orders\.read +ci *$", listed, re.MULTILINE)
    assert f" at {RESOURCE}" in listed
    assert value not in listed + json.dumps(cli.json("api-tokens", "list", app_id))


def test_scripts_get_record_and_token(cli: Cli) -> None:
    app_id = cli.create_app()
    created = cli.json("api-tokens", "create", app_id, *RIGHTS, "--name", "ci")
    record = created["record"]
    assert created == {"record": record, "api_token": created["api_token"]}
    assert created["api_token"].startswith("rpzt_")
    assert record == {
        "api_token_id": record["api_token_id"],
        "app_id": app_id,
        "display_name": "ci",
        "scopes": ["orders.read"],
        "resources": [RESOURCE],
        "create_time": record["create_time"],
        "last_use_address": "",
    }
    assert cli.json("api-tokens", "list", app_id) == {"api_tokens": [record], "warnings": []}


def test_output_goes_to_a_private_file_and_nowhere_else(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "token"
    result = cli("api-tokens", "create", cli.create_app(), *RIGHTS, "--output", str(path))
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"rpzt_[A-Za-z0-9_-]+", path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "rpzt_" not in result.out


def test_administrator_of_ones_own_has_a_credentials_file_like_the_first_one(
    cli: Cli, authority: AuthorityProcess, tmp_path: Path
) -> None:
    scopes = [word for name in ("rpz.admin", "rpz.apps", "rpz.audit") for word in ("--scope", name)]
    own = (*scopes, "--resource", authority.bootstrap["issuer"])
    app_id = cli.json("apps", "create", "ops", "--kind", "backend", *own)["app"]["app_id"]
    path = tmp_path / "ops.json"
    options = ("--as-credentials", "--output", str(path))
    made = cli("api-tokens", "create", app_id, *own, *options)
    assert (made.code, made.err) == (0, "")
    assert "rpzt_" not in made.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = json.loads(path.read_text())
    assert content == {
        "kind": "",
        "grpc_address": authority.address,
        "issuer": authority.bootstrap["issuer"],
        "ca_certificate_pem": Path(authority.bootstrap["ca_certificate"]).read_text(),
        "insecure": False,
        "app_id": app_id,
        "api_token": content["api_token"],
    }
    as_ops = Cli(path)
    bootstrap = authority.bootstrap["app_id"]
    (token,) = as_ops.json("api-tokens", "list", bootstrap)["api_tokens"]
    verifier = ["--verifier", str(tmp_path / "orders.json"), "--resource", RESOURCE]
    commands: list[list[str]] = [
        ["apps", "create", "orders", *verifier],
        ["refusals", "list"],
        ["audit", "verify"],
        ["verifiers", "list"],
    ]
    for command in commands:
        assert as_ops(*command).code == 0
    (own_token,) = as_ops.json("api-tokens", "list", app_id)["api_tokens"]
    path = tmp_path / "next.json"
    rotate = ("api-tokens", "rotate", app_id, own_token["api_token_id"], "--overlap", "0s")
    assert as_ops(*rotate, "--as-credentials", "--output", str(path)).code == 0
    assert as_ops("apps", "list").code == 1
    assert (
        Cli(path).json("api-tokens", "list", bootstrap)["api_tokens"][0]["create_time"]
        == token["create_time"]
    )


def test_credentials_file_has_a_name_and_nobody_elses_certificate(
    cli: Cli, authority: AuthorityProcess, tmp_path: Path
) -> None:
    app_id = cli.create_app()
    refused = cli("api-tokens", "create", app_id, *RIGHTS, "--as-credentials")
    assert (refused.code, refused.out) == (2, "")
    assert "goes together with --output" in refused.err
    issued = issue_client_certificate(authority.data_dir, ["operator.example"])
    pair = {"client_certificate_pem": issued.certificate.decode(), "client_key_pem": issued.key.decode()}
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({**authority.bootstrap, **pair}))
    options = ("--as-credentials", "--output", str(tmp_path / "shop.json"))
    assert Cli(mine)("api-tokens", "create", app_id, *RIGHTS, *options).code == 0
    assert "client" not in (tmp_path / "shop.json").read_text()


def test_token_whose_file_cannot_be_written_is_revoked_again(cli: Cli, tmp_path: Path) -> None:
    app_id = cli.create_app()
    result = cli("api-tokens", "create", app_id, *RIGHTS, "--output", str(tmp_path / ("x" * 250)))
    assert result.code == 1
    assert result.err.startswith("FILE_NOT_WRITTEN: ")
    [record] = cli.json("api-tokens", "list", app_id)["api_tokens"]
    assert "revoke_time" in record


def test_token_never_gets_more_than_the_app_has(cli: Cli) -> None:
    result = cli("api-tokens", "create", cli.create_app(), "--scope", "other", "--resource", RESOURCE)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("SCOPE_INVALID: ")


def test_there_is_no_default_for_scope_or_resource(cli: Cli) -> None:
    app_id = cli.create_app()
    assert cli("api-tokens", "create", app_id, "--scope", "orders.read").code == 2
    assert cli("api-tokens", "create", app_id, "--resource", RESOURCE).code == 2


def test_revoked_token_is_listed_as_such(cli: Cli) -> None:
    app_id = cli.create_app()
    token_id = cli.json("api-tokens", "create", app_id, *RIGHTS)["record"]["api_token_id"]
    assert cli("api-tokens", "revoke", app_id, token_id).out == f"{token_id} is revoked\n"
    assert cli.json("api-tokens", "revoke", app_id, token_id) == {}
    assert re.search(rf"^{token_id}  revoked  never", cli("api-tokens", "list", app_id).out, re.MULTILINE)


def test_rotation_shows_the_successor_and_until_when_the_old_one_goes_on(cli: Cli) -> None:
    app_id = cli.create_app()
    options = ("--scope", "orders.read", "--resource", RESOURCE, "--name", "ci")
    old = cli.json("api-tokens", "create", app_id, *options)["record"]
    rotated = cli("api-tokens", "rotate", app_id, old["api_token_id"], "--overlap", "1h")
    assert (rotated.code, rotated.err) == (0, "")
    assert re.search(r"^rpzt_\S{64}$", rotated.out, re.MULTILINE)
    assert re.search(rf"^{old['api_token_id']} goes on until .* UTC$", rotated.out, re.MULTILINE)
    listed = cli.json("api-tokens", "list", app_id)["api_tokens"]
    assert sorted("expire_time" in each for each in listed) == [False, True]
    (new,) = [each for each in listed if "expire_time" not in each]
    assert (new["display_name"], new["scopes"], new["resources"]) == ("ci", old["scopes"], old["resources"])
    moved = cli.json("api-tokens", "update", app_id, new["api_token_id"], "--expires-in", "1h")
    assert "expire_time" in moved["api_token"]


def test_token_with_a_deadline_is_followed_by_one_without_only_on_request(cli: Cli) -> None:
    app_id = cli.create_app()
    old = cli.json("api-tokens", "create", app_id, *RIGHTS, "--expires-in", "90d")["record"]["api_token_id"]
    endless = cli.json("api-tokens", "create", app_id, *RIGHTS)["record"]["api_token_id"]
    refused = cli("api-tokens", "rotate", app_id, old)
    assert (refused.code, refused.out) == (2, "")
    assert "has a deadline; say when its successor ends, or --never-expires" in refused.err
    assert "expire_time" not in cli.json("api-tokens", "rotate", app_id, endless)["record"]
    assert "expire_time" in cli.json("api-tokens", "rotate", app_id, old, "--expires-in", "90d")["record"]
    rotated = cli("api-tokens", "rotate", app_id, old, "--never-expires", "--overlap", "0s")
    assert re.search(rf"^{old} has ended$", rotated.out, re.MULTILINE)
