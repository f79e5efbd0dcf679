"""What the commands that work on files have in common."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.commands.offline import load_as_started
from rpz_auth_server.main import app
from server.authority import running_authority
from typer.testing import CliRunner


def run(*arguments: str) -> Any:
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    assert (ended.exit_code, ended.stderr) == (0, ""), ended.output
    return json.loads(ended.stdout)


def test_json_is_all_that_stands_on_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPZ_AUTH_LOG_LEVEL", "error")
    folder, copy = tmp_path / "data", tmp_path / "copy.db"

    async def found() -> None:
        async with running_authority(folder):
            pass

    asyncio.run(found())
    where = ("--data-dir", str(folder), "--json")
    keyring, database = folder / "keyring.json", folder / "rpz-auth.db"
    assert run("backup", str(copy), *where) == {"backup": str(copy), "keyring": str(keyring)}
    restored = run("restore", str(copy), *where)
    assert Path(restored.pop("kept")).exists()
    assert restored == {"database": str(database), "backup": str(copy)}
    added = run("keys", "add", "--after", "3600", *where)
    assert added == {"number": 2, "file": str(keyring), "mints_after": 3600.0}
    issuer = ("--issuer", "https://localhost")
    link = {"file": str(folder / "first-sign-in.txt"), "user_name": "ada"}
    assert run("sign-in-link", "ada", *where, *issuer) == {**link, "is_new": True}
    assert run("sign-in-link", "ada", *where, *issuer) == {**link, "is_new": False}
    made = run("bootstrap", "--grpc-address", "127.0.0.1:1", *where, *issuer)
    assert made == {"administrator": str(folder / "bootstrap.json")}


def leave(folder: Path, **changed: Any) -> dict[str, Any]:
    """Write what a start has left."""
    left = {
        "grpc_address": "127.0.0.1:9001",
        "issuer": "https://left.example",
        "ca_certificate": None,
        "insecure": True,
        **changed,
    }
    (folder / "bootstrap.json").write_text(json.dumps(left))
    return left


@pytest.mark.parametrize("name", ["grpc_address", "issuer", "insecure"])
def test_flag_wins_over_environment_over_file_over_what_the_last_start_left(
    tmp_path: Path, name: str
) -> None:
    values: dict[str, tuple[Any, Any, Any]] = {
        "grpc_address": ("127.0.0.1:9002", "127.0.0.1:9003", "127.0.0.1:9004"),
        "issuer": ("https://toml.example", "https://environment.example", "https://flag.example"),
        "insecure": (False, "true", False),
    }
    in_file, exported, flag = values[name]
    flags: dict[str, Any] = {"data_dir": str(tmp_path)}
    default = getattr(load_as_started(flags, {}), name)
    left = leave(tmp_path)
    assert left[name] == getattr(load_as_started(flags, {}), name) != default
    (tmp_path / "rpz-auth.toml").write_text(f"{name} = {json.dumps(in_file)}")
    assert getattr(load_as_started(flags, {}), name) == in_file
    environ = {f"RPZ_AUTH_{name.upper()}": exported}
    assert str(getattr(load_as_started(flags, environ), name)).lower() == exported
    assert getattr(load_as_started({**flags, name: flag}, environ), name) == flag


def test_what_the_last_start_left_is_looked_for_where_the_file_of_settings_says(tmp_path: Path) -> None:
    leave(tmp_path)
    config = tmp_path / "named.toml"
    config.write_text(f'data_dir = "{tmp_path}"\nhttp_address = "0.0.0.0:443"')
    settings = load_as_started({"config": config}, {})
    assert (settings.data_dir, settings.issuer) == (tmp_path, "https://left.example")


def test_tls_that_was_set_up_since_the_last_start_holds(tmp_path: Path) -> None:
    leave(tmp_path)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    settings = load_as_started(
        {"data_dir": tmp_path, "tls_certificate": certificate, "tls_key": key},
        {},
    )
    assert (settings.insecure, settings.tls_certificate) == (False, certificate)
    assert settings.issuer == "https://left.example"


def test_settings_that_cannot_be_used_stay_an_error(tmp_path: Path) -> None:
    leave(tmp_path)
    with pytest.raises(ConfigurationError, match="refresh_grace"):
        load_as_started({"data_dir": tmp_path, "refresh_grace": -1}, {})


@pytest.mark.parametrize("command", [("sign-in-link", "ada"), ("bootstrap",)])
def test_typing_error_founds_no_second_authority(tmp_path: Path, command: tuple[str, ...]) -> None:
    folder = tmp_path / "typo"
    ended = CliRunner().invoke(app, [*command, "--data-dir", str(folder)])
    assert (ended.exit_code, "holds no authority" in ended.stderr) == (1, True)
    assert not folder.exists()
