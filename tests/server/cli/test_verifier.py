"""`rpz-auth apps create --verifier`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from rpz_auth.connection_file import VerifierFile
from server.cli.command import RESOURCE, Cli
from support.authority import AuthorityProcess


def names(cli: Cli) -> list[str]:
    return [app["display_name"] for app in cli.json("apps", "list")["apps"]]


def test_file_is_what_a_service_needs_and_readable_by_its_owner_only(
    cli: Cli, authority: AuthorityProcess, tmp_path: Path
) -> None:
    path = tmp_path / "orders.json"
    created = cli.json("apps", "create", "orders", "--verifier", str(path), "--resource", RESOURCE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["orders.json"]
    content = json.loads(path.read_text())
    assert content == {
        "kind": "verifier",
        "grpc_address": authority.address,
        "issuer": authority.bootstrap["issuer"],
        "ca_certificate_pem": Path(authority.bootstrap["ca_certificate"]).read_text(),
        "insecure": False,
        "app_id": created["app"]["app_id"],
        "api_token": content["api_token"],
        "resources": [RESOURCE],
    }
    assert VerifierFile.read(path).api_token == content["api_token"]
    assert content["api_token"] not in json.dumps(created)


def test_its_app_can_verify_and_nothing_else(cli: Cli, authority: AuthorityProcess, tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    created = cli.json(
        *("apps", "create", "orders", "--verifier", str(path), "--kind", "backend", "--allow", "127.0.0.1"),
        *("--resource", RESOURCE, "--resource", "https://two.example"),
    )
    rights = {
        "scopes": ["rpz.introspect", "rpz.verify"],
        "resources": sorted([RESOURCE, "https://two.example", authority.bootstrap["issuer"]]),
    }
    assert {name: created["app"][name] for name in rights} == rights
    assert {name: created["record"][name] for name in rights} == rights
    assert created["app"]["kind"] == "APP_KIND_BACKEND"
    assert created["app"]["whitelist"] == ["127.0.0.1"]
    assert created["verifier_file"] == str(path)
    as_verifier = Cli(path)
    assert as_verifier("apps", "list").err.startswith("SCOPE_INSUFFICIENT: ")
    assert as_verifier.json("tokens", "introspect", stdin="unknown")["active"] is False


def test_terminal_shows_the_path_and_not_the_token(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    result = cli("apps", "create", "orders", "--verifier", str(path), "--resource", RESOURCE)
    assert (result.code, result.err) == (0, "")
    assert f'rpz_auth.connect("{path}")' in result.out
    assert "rpzt_" not in result.out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "--resource"),
        (["--resource", RESOURCE, "--scope", "orders.read"], "--verifier"),
        (["--resource", RESOURCE, "--kind", "device"], "--verifier"),
        (["--resource", RESOURCE, "--redirect-uri", "https://a.example/"], "--verifier"),
        (["--resource", RESOURCE, "--subject-prefix", "user:"], "--verifier"),
        (["--resource", RESOURCE, "--pkce-exempt"], "--verifier"),
    ],
)
def test_options_of_other_apps_are_wrong_usage(
    cli: Cli, tmp_path: Path, options: list[str], problem: str
) -> None:
    path = tmp_path / "orders.json"
    result = cli("apps", "create", "contradiction", "--verifier", str(path), *options)
    assert result.code == 2
    assert f"Invalid value for {problem}" in result.err
    assert not path.exists()
    assert "contradiction" not in names(cli)


def test_file_that_exists_is_kept_and_nothing_is_created(cli: Cli, tmp_path: Path) -> None:
    taken, link, lost = tmp_path / "taken", tmp_path / "link", tmp_path / "none" / "file"
    taken.write_text("mine")
    link.symlink_to(tmp_path / "elsewhere")
    for path in (taken, link, lost):
        result = cli("apps", "create", "late", "--verifier", str(path), "--resource", RESOURCE)
        assert result.code == 2
        assert str(path if path is not lost else lost.parent) in result.err
    assert taken.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()
    assert "late" not in names(cli)


def test_app_whose_file_cannot_be_written_is_deleted_again(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)  # fits, but not the longer name of the draft beside it
    result = cli("apps", "create", "unwritten", "--verifier", str(path), "--resource", RESOURCE)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"FILE_NOT_WRITTEN: {path}: File name too long; the App ")
    assert result.err.endswith(" was removed again\n")
    assert "unwritten" not in names(cli)
    assert list(tmp_path.iterdir()) == []
