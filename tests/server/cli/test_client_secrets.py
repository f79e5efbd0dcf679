"""`rpz-auth secrets`."""

from __future__ import annotations

import json
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.cli.command import Cli


def test_secret_is_shown_once_on_a_line_of_its_own(cli: Cli) -> None:
    app_id = cli.create_app()
    result = cli("secrets", "create", app_id, "--name", "blue")
    assert (result.code, result.err) == (0, "")
    *_, mark, value = result.out.splitlines()
    assert mark == "OAuth 2 secret, shown this once; keep it now:"
    assert re.fullmatch(r"rpzs_[A-Za-z0-9_-]+", value)
    listed = cli("secrets", "list", app_id)
    assert re.search(r"^\S{22}  live   never +never +blue *$", listed.out, re.MULTILINE)
    assert value not in listed.out
    assert value not in json.dumps(cli.json("secrets", "list", app_id))


def test_scripts_get_record_and_secret(cli: Cli) -> None:
    app_id = cli.create_app()
    created = cli.json(
        "secrets", "create", app_id, "--name", "blue", "--expires-at", "2100-01-01T01:00:00+01:00"
    )
    record = created["record"]
    assert created == {"record": record, "client_secret": created["client_secret"]}
    assert created["client_secret"].startswith("rpzs_")
    assert record == {
        "secret_id": record["secret_id"],
        "app_id": app_id,
        "display_name": "blue",
        "create_time": record["create_time"],
        "expire_time": "2100-01-01T00:00:00Z",
        "last_use_address": "",
    }
    assert cli.json("secrets", "list", app_id) == {"client_secrets": [record], "warnings": []}


def test_deadline_counts_from_now(cli: Cli) -> None:
    record = cli.json("secrets", "create", cli.create_app(), "--expires-in", "90d")["record"]
    lifetime = datetime.fromisoformat(record["expire_time"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < lifetime <= timedelta(days=90)


def test_output_goes_to_a_private_file_and_nowhere_else(cli: Cli, tmp_path: Path) -> None:
    app_id = cli.create_app()
    for number, flags in enumerate(([], ["--json"])):
        path = tmp_path / f"secret-{number}"
        result = cli("secrets", "create", app_id, "--output", str(path), *flags)
        assert (result.code, result.err) == (0, "")
        assert re.fullmatch(r"rpzs_[A-Za-z0-9_-]+", path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert str(path) in result.out
        assert "rpzs_" not in result.out


def test_output_that_exists_is_kept_and_no_secret_is_made(cli: Cli, tmp_path: Path) -> None:
    app_id, path = cli.create_app(), tmp_path / "secret"
    path.write_text("mine")
    assert cli("secrets", "create", app_id, "--output", str(path)).code == 2
    assert path.read_text() == "mine"
    assert cli.json("secrets", "list", app_id) == {"client_secrets": [], "warnings": []}


def test_secret_whose_file_cannot_be_written_is_revoked_again(cli: Cli, tmp_path: Path) -> None:
    app_id = cli.create_app()
    result = cli("secrets", "create", app_id, "--output", str(tmp_path / ("x" * 250)))
    assert result.code == 1
    assert result.err.startswith("FILE_NOT_WRITTEN: ")
    assert "rpzs_" not in result.out + result.err
    [record] = cli.json("secrets", "list", app_id)["client_secrets"]
    assert "revoke_time" in record


def test_revoked_secret_is_listed_as_such(cli: Cli) -> None:
    app_id = cli.create_app()
    secret_id = cli.json("secrets", "create", app_id)["record"]["secret_id"]
    assert cli("secrets", "revoke", app_id, secret_id).out == f"{secret_id} is revoked\n"
    assert cli.json("secrets", "revoke", app_id, secret_id) == {}
    assert re.search(rf"^{secret_id}  revoked  never", cli("secrets", "list", app_id).out, re.MULTILINE)


def test_frontend_gets_no_secret(cli: Cli) -> None:
    result = cli("secrets", "create", cli.create_app(kind="frontend"))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("REQUEST_INVALID: ")


def test_rotation_shows_the_successor_and_until_when_the_old_one_goes_on(cli: Cli, tmp_path: Path) -> None:
    app_id = cli.create_app()
    old = cli.json("secrets", "create", app_id)["record"]["secret_id"]
    rotated = cli("secrets", "rotate", app_id, "--overlap", "24h", "--name", "green")
    assert (rotated.code, rotated.err) == (0, "")
    assert re.search(r"^rpzs_\S{64}$", rotated.out, re.MULTILINE)
    assert re.search(rf"^{old} goes on until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC$", rotated.out, re.MULTILINE)
    path = tmp_path / "secret"
    command = ("secrets", "rotate", app_id, old, "--never-expires", "--overlap", "0s", "--output", str(path))
    again = cli.json(*command)
    assert [each["secret_id"] for each in again["replaced"]] == [old]
    assert (again["output"], "client_secret" in again) == (str(path), False)
    assert path.read_text().startswith("rpzs_")
    assert cli("secrets", "rotate", app_id, "--overlap", "soon").code == 2


def test_deadline_of_a_secret_is_moved_and_taken_away(cli: Cli) -> None:
    app_id = cli.create_app()
    secret_id = cli.json("secrets", "create", app_id)["record"]["secret_id"]
    moved = cli.json("secrets", "update", app_id, secret_id, "--expires-in", "1h", "--name", "blue")
    assert moved["client_secret"]["display_name"] == "blue"
    assert "expire_time" in moved["client_secret"]
    shown = cli("secrets", "update", app_id, secret_id, "--never-expires").out
    assert re.search(r"Expires \(UTC\) +never", shown)
    for options in ([], ["--never-expires", "--expires-in", "1h"]):
        assert cli("secrets", "update", app_id, secret_id, *options).code == 2


def test_repeated_creation_by_its_request_id_makes_nothing_new(cli: Cli) -> None:
    app_id = cli.create_app()
    command = ("secrets", "create", app_id, "--request-id", "5f0c8ae6-0f2b-4c6e-9d7b-2f2f1a1c9a10")
    assert cli.json(*command) == cli.json(*command)
    assert len(cli.json("secrets", "list", app_id)["client_secrets"]) == 1


def test_secret_with_a_deadline_is_followed_by_one_without_only_on_request(cli: Cli) -> None:
    app_id = cli.create_app()
    old = cli.json("secrets", "create", app_id, "--expires-in", "90d")["record"]["secret_id"]
    for named in ((), (old,)):
        refused = cli("secrets", "rotate", app_id, *named)
        assert (refused.code, refused.out) == (2, "")
        assert "has a deadline; say when its successor ends, or --never-expires" in refused.err
    assert cli("secrets", "rotate", app_id, "--never-expires", "--expires-in", "1d").code == 2
    assert "expire_time" in cli.json("secrets", "rotate", app_id, "--expires-in", "90d")["record"]
    endless = cli("secrets", "rotate", app_id, "--never-expires", "--overlap", "0s")
    assert re.search(rf"^{old} has ended$", endless.out, re.MULTILINE)
    # What is replaced is the newest; of the others an earlier rotation made an end.
    assert "expire_time" not in cli.json("secrets", "rotate", app_id, "--overlap", "1h")["record"]


def test_repeated_command_names_its_deadline_by_the_clock(cli: Cli) -> None:
    app_id = cli.create_app()
    command = ("secrets", "create", app_id, "--request-id", "5f0c8ae6-0f2b-4c6e-9d7b-2f2f1a1c9a11")
    refused = cli(*command, "--expires-in", "90d")
    assert (refused.code, refused.out) == (2, "")
    assert "write --expires-at beside --request-id" in refused.err
    until = ("--expires-at", "2100-01-01T00:00:00Z")
    assert cli.json(*command, *until) == cli.json(*command, *until)
    rotate = ("secrets", "rotate", app_id, "--request-id", "5f0c8ae6-0f2b-4c6e-9d7b-2f2f1a1c9a12")
    assert (
        cli.json(*rotate)["record"] == cli.json(*rotate)["record"]
    )  # though the old one has a deadline by now
