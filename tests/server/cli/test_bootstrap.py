"""`rpz-auth-server bootstrap`: a new administrator for whoever can read the data directory."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from server.cli.command import Cli
from support.authority import running_authority

PROGRAM = Path(sys.executable).with_name("rpz-auth-server")


def bootstrap(data_dir: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RPZ_AUTH_")}
    return subprocess.run(  # noqa: S603 - our own program
        [str(PROGRAM), "bootstrap", "--data-dir", str(data_dir), *flags],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
        timeout=60,
    )


def test_new_administrator_works_at_once_when_the_old_one_is_gone(tmp_path: Path) -> None:
    with running_authority(tmp_path / "data") as authority:
        path = authority.data_dir / "bootstrap.json"
        old = json.loads(path.read_text())
        assert Cli(path)("apps", "delete", old["app_id"], "--yes").code == 0
        assert Cli(path)("apps", "list").err.startswith("TOKEN_INVALID: ")

        made = bootstrap(authority.data_dir)
        assert (made.returncode, made.stdout) == (0, f"administrator: {path}\n"), made.stderr
        new = json.loads(path.read_text())
        assert new == {**old, "app_id": new["app_id"], "api_token": new["api_token"]}
        assert new["app_id"] != old["app_id"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert new["api_token"] not in made.stdout + made.stderr
        assert [app["app_id"] for app in Cli(path).json("apps", "list")["apps"]] == [new["app_id"]]

        # Without the file only flags can say where the authority is.
        path.unlink()
        unknown = bootstrap(authority.data_dir, "--grpc-address", "127.0.0.1:0")
        assert unknown.returncode == 1
        assert "--grpc-address" in unknown.stderr
        wrong = bootstrap(authority.data_dir, "--grpc-address", authority.address)
        assert wrong.returncode == 1
        assert f"add --issuer {new['issuer']}" in wrong.stderr
        assert not path.exists()
        right = bootstrap(authority.data_dir, "--grpc-address", authority.address, "--issuer", new["issuer"])
        assert right.returncode == 0, right.stderr
        assert {**json.loads(path.read_text()), "app_id": "", "api_token": ""} == {
            **new,
            "app_id": "",
            "api_token": "",
        }
        assert Cli(path)("apps", "list").code == 0


def test_new_administrator_ends_the_token_of_the_one_before(tmp_path: Path) -> None:
    with running_authority(tmp_path / "data") as authority:
        path, kept = authority.data_dir / "bootstrap.json", tmp_path / "old.json"
        kept.write_text(path.read_text())
        assert Cli(kept)("apps", "list").code == 0
        assert bootstrap(authority.data_dir).returncode == 0
        assert Cli(path)("apps", "list").code == 0
        assert Cli(kept)("apps", "list").err.startswith("TOKEN_INVALID: ")


def test_folder_without_an_authority_stays_as_it_is(tmp_path: Path) -> None:
    made = bootstrap(tmp_path)
    assert (made.returncode, made.stdout) == (1, "")
    assert "holds no authority" in made.stderr
    assert list(tmp_path.iterdir()) == []
