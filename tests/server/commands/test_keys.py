"""`rpz-auth-server keys`, on an authority that runs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz_auth_server.commands.keys import app
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE, KeyRing
from support.authority import AuthorityProcess, running_authority
from typer.testing import CliRunner


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


def keys(data_dir: Path, *arguments: str, **environ: str) -> Ended:
    """Run a command, in this process: starting another takes longer than all the rest."""
    ended = CliRunner(env=environ).invoke(app, [*arguments, "--data-dir", str(data_dir)])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return Ended(ended.exit_code, ended.stdout, ended.stderr)


def status(data_dir: Path) -> list[dict[str, Any]]:
    found = keys(data_dir, "status", "--json")
    assert found.returncode == 0, found.stderr
    shown: list[dict[str, Any]] = json.loads(found.stdout)["keys"]
    return shown


def wait_until_taken_over(authority: AuthorityProcess, *words: str) -> None:
    deadline = time.monotonic() + 20
    while not all(word in authority.log.read_text() for word in words):
        assert time.monotonic() < deadline, authority.log.read_text()
        time.sleep(0.05)  # another process's log can only be looked at


def test_old_key_goes_once_nothing_needs_it_and_no_call_fails_meanwhile(tmp_path: Path) -> None:
    with running_authority(tmp_path / "data") as authority:
        data_dir, path = authority.data_dir, authority.data_dir / "keyring.json"
        client = authority.create_client()
        tokens = authority.exchange(client, authority.issue_code(client))
        assert status(data_dir) == [
            {
                "number": 1,
                "state": "mints",
                "rows": {"grants": 1, "client_secrets": 1, "api_tokens": 1, "signing_keys": 1},
            }
        ]
        # As `keys add` did two minutes ago.
        KeyRing.load(path).with_new_key(mints_from=time.time() - 120).save(path)
        wait_until_taken_over(authority, "key ring taken over")
        renewed = authority.refresh(client, tokens.refresh_token)
        secret = authority.apps.CreateClientSecret(app_pb.CreateClientSecretRequest(app_id=client.app_id))
        one, two = status(data_dir)
        assert (one["state"], two["state"]) == ("verifies", "mints")
        assert two["rows"] == {"grants": 1, "client_secrets": 1}

        refused = keys(data_dir, "retire", "1")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "1 client_secrets" in refused.stderr
        assert "signing_keys" not in refused.stderr  # these were encrypted anew
        assert KeyRing.load(path).numbers == (1, 2)
        assert status(data_dir)[1]["rows"]["signing_keys"] == 1
        assert authority.refresh(client, renewed.refresh_token).access_token
        assert secret.client_secret

        minting = keys(data_dir, "retire", "2")
        assert minting.returncode == 1
        assert "master key 2 mints" in minting.stderr


def test_added_key_waits_before_it_mints(tmp_path: Path) -> None:
    with running_authority(tmp_path / "data") as authority:
        added = keys(authority.data_dir, "add", "--after", "3600")
        assert added.returncode == 0, added.stderr
        assert "master key 2 added" in added.stdout
        wait_until_taken_over(authority, "key ring taken over")
        one, two = status(authority.data_dir)
        assert one["state"] == "mints"
        assert two["state"].startswith("mints from ")
        again = keys(authority.data_dir, "add")
        assert again.returncode == 1
        assert "does not mint yet" in again.stderr
        early = keys(authority.data_dir, "retire", "1")
        assert early.returncode == 1
        assert "master key 1 mints" in early.stderr


def test_damaged_ring_leaves_the_authority_with_the_one_from_before(tmp_path: Path) -> None:
    with running_authority(tmp_path / "data") as authority:
        path = authority.data_dir / "keyring.json"
        before = path.read_text()
        path.write_text(before[:-30])
        wait_until_taken_over(authority, "the key ring cannot be used")
        assert authority.create_client().secret
        path.write_text(before)


def test_ring_in_the_environment_is_its_owners(tmp_path: Path) -> None:
    with running_authority(tmp_path / "data") as authority:
        text = (authority.data_dir / "keyring.json").read_text()
    refused = keys(tmp_path / "data", "add", **{ENVIRONMENT_VARIABLE: text})
    assert refused.returncode == 1
    assert ENVIRONMENT_VARIABLE in refused.stderr
    assert text not in refused.stderr


def test_folder_without_an_authority_stays_as_it_is(tmp_path: Path) -> None:
    for command in (["status"], ["add"], ["retire", "1"]):
        refused = keys(tmp_path, *command)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "Traceback" not in refused.stderr
