"""What the commands that work on files have in common."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
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
    assert run("sign-in-link", "ada", *where, *issuer) == {"file": str(folder / "first-sign-in.txt")}
    made = run("bootstrap", "--grpc-address", "127.0.0.1:1", *where, *issuer)
    assert made == {"administrator": str(folder / "bootstrap.json")}
