"""Each check of `rpz-auth-server doctor` on an authority in which that very thing is wrong."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from rpz_auth_server import files
from rpz_auth_server.crypto.keyring import ENVIRONMENT_VARIABLE, KeyRing
from rpz_auth_server.doctor import database as database_checks
from rpz_auth_server.doctor.command import examine
from rpz_auth_server.doctor.database import _room, _state, check_store
from rpz_auth_server.doctor.finding import State
from rpz_auth_server.doctor.reach import check_reachability
from rpz_auth_server.main import app
from rpz_auth_server.settings import Settings
from rpz_auth_server.storage.inspection import Inspection
from rpz_auth_server.storage.schema import MIGRATIONS
from rpz_auth_server.transport.tls.development import DevelopmentFiles, issue_client_certificate
from server.authority import running_authority
from server.doctor.conftest import NOBODY_LISTENS, Patient, problems
from typer.testing import CliRunner

DAY = 86400.0
ERROR, WARNING = State.ERROR, State.WARNING


def change(patient: Patient, *statements: str) -> None:
    with sqlite3.connect(patient.database) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_nothing_is_wrong_with_a_new_authority_but_what_is_said(patient: Patient) -> None:
    before = sorted(path.name for path in patient.folder.rglob("*"))
    found = patient.examine()
    warnings = [finding.check for finding in found if finding.state is not State.OK]
    assert warnings == ["credentials", "reachability"]  # the bootstrap token; and none runs
    assert {finding.check for finding in found} == {
        *("settings", "files", "certificates", "clock", "database", "audit records"),
        *("issuer", "master keys", "signing keys", "credentials", "reachability"),
    }
    assert sorted(path.name for path in patient.folder.rglob("*")) == before


# Settings


def test_settings_that_cannot_be_used_are_a_finding(patient: Patient) -> None:
    (patient.folder / "rpz-auth.toml").write_text("workrs = 2\n")
    ((state, found),) = patient.problems("settings")
    assert (state, "did you mean workers?" in found) == (ERROR, True)


def test_folder_without_an_authority_is_an_error_and_stays_empty(tmp_path: Path) -> None:
    ((state, found),) = Patient(tmp_path).problems("settings")
    assert (state, "holds no authority" in found) == (ERROR, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "state"),
    [
        ("insecure", True, WARNING),
        ("trusted_proxies", "::/0,10.0.0.1", ERROR),
        ("failure_limit", 0, WARNING),
        ("peer_failure_limit", 0, WARNING),
        ("app_failure_limit", 0, WARNING),
        ("http_address", "0.0.0.0:1", WARNING),
    ],
)
def test_dangerous_setting_is_named(patient: Patient, name: str, value: Any, state: State) -> None:
    ((found_state, found),) = patient.problems("settings", **{name: value, "issuer": "https://localhost"})
    assert found_state is state
    assert name in found or "leads nowhere" in found


# Files


def test_folder_that_others_can_enter_is_told(patient: Patient) -> None:
    patient.folder.chmod(0o750)
    assert patient.problems("files") == [
        (WARNING, f"{patient.folder} has mode 0750: others can look into it")
    ]
    patient.folder.chmod(0o777)
    ((state, _),) = patient.problems("files")
    assert state is ERROR


@pytest.mark.parametrize(
    "name", ["rpz-auth.db", "keyring.json", "bootstrap.json", "tls/ca.key", "rpz-auth.db.lock"]
)
def test_private_file_that_others_can_read_is_told(patient: Patient, name: str) -> None:
    path = patient.folder / name
    path.chmod(0o640)
    assert patient.problems("files") == [(ERROR, f"{path} has mode 0640: others can read it")]


def test_another_user_learns_whose_it_is_and_leaves_nothing_behind(patient: Patient) -> None:
    found = patient.examine(user=os.geteuid() + 1)
    assert any("belongs to" in text for _, text in problems(found, "files"))
    assert "audit records" not in {finding.check for finding in found}  # the database was not opened


def test_readable_file_of_settings_may_hold_no_secret(patient: Patient) -> None:
    path = patient.folder / "rpz-auth.toml"
    path.write_text('log_level = "info"\n')
    path.chmod(0o644)
    assert patient.problems("files") == []
    path.write_text('oidc_client_secret = "a secret of the provider"\n')
    ((state, found),) = patient.problems("files")
    assert (state, "a secret of" in found) == (ERROR, False)


# Clock


def test_clock_behind_the_database_is_told(patient: Patient) -> None:
    ((state, found),) = patient.problems("clock", now=time.time() - DAY)
    assert (state, "ahead of this machine's" in found) == (ERROR, True)
    ((state, _),) = patient.problems("clock", now=time.time() - 40)
    assert state is WARNING


def test_database_that_slept_is_not_behind(patient: Patient) -> None:
    assert patient.problems("clock", now=time.time() + DAY) == []


# Certificates


def test_certificate_that_ends_soon_or_has_ended_is_told(patient: Patient) -> None:
    ((state, found),) = patient.problems("certificates", now=time.time() + 390 * DAY)
    assert (state, "expires on" in found) == (WARNING, True)
    ((state, found),) = patient.problems("certificates", now=time.time() + 400 * DAY)
    assert (state, "has expired on" in found) == (ERROR, True)
    both = patient.problems("certificates", now=time.time() - 10 * DAY)
    assert [state for state, _ in both] == [ERROR, ERROR]
    assert all("valid only from" in found for _, found in both)


def test_certificate_without_its_key_or_name_is_told(patient: Patient) -> None:
    own = DevelopmentFiles.of(patient.folder)
    flags = {"tls_certificate": own.server, "tls_key": own.ca_key}
    ((state, found),) = patient.problems("certificates", **flags)
    assert (state, "is not the key of" in found) == (ERROR, True)
    flags["tls_key"] = own.server_key
    ((state, found),) = patient.problems("certificates", **flags, issuer="https://auth.example")
    assert (state, "is not for auth.example" in found) == (WARNING, True)
    flags["tls_certificate"] = patient.folder / "nowhere.pem"
    assert patient.problems("certificates", **flags)[0][0] is ERROR


def test_given_key_that_everybody_can_read_is_told(patient: Patient) -> None:
    own = DevelopmentFiles.of(patient.folder)
    key = patient.folder.parent / "given.pem"
    key.write_bytes(own.server_key.read_bytes())
    key.chmod(0o644)
    ((state, found),) = patient.problems("files", tls_certificate=own.server, tls_key=key)
    assert (state, "everybody can read" in found) == (ERROR, True)


# Database and records


def test_damaged_database_is_told_and_not_opened(patient: Patient) -> None:
    size = patient.database.stat().st_size
    with patient.database.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * (size // 2))
    found = patient.examine()
    assert any(state is ERROR for state, _ in problems(found, "database"))
    assert "audit records" not in {finding.check for finding in found}


def test_row_that_refers_to_nothing_is_told(patient: Patient) -> None:
    change(patient, "DELETE FROM apps")
    ((state, found),) = patient.problems("database")
    assert (state, "refers to one of apps that is missing" in found) == (ERROR, True)


def test_database_of_another_version_or_moved_away_is_told_and_not_opened(patient: Patient) -> None:
    last = list(MIGRATIONS)[-1]
    # S608: the name stands in our own source.
    change(patient, f"UPDATE _sqlite_migrations SET name = 'm9999_future' WHERE name = '{last}'")  # noqa: S608
    assert patient.problems("database") == [(ERROR, "it is of a newer rpz-auth-server")]
    change(patient, "DELETE FROM _sqlite_migrations WHERE name = 'm9999_future'")
    assert patient.problems("database") == [(WARNING, "it is of an older rpz-auth-server")]
    change(patient, "UPDATE meta SET moved_to = 'elsewhere'")
    assert patient.problems("database") == [(ERROR, "it was moved (elsewhere), and is fenced")]
    with sqlite3.connect(patient.database) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM _sqlite_migrations")}
    connection.close()
    assert last not in names  # looking has not migrated it


def test_full_disk_is_told() -> None:
    assert [finding.state for free in (2**40, 2**27, 2**20) for finding in _room(free)] == [
        State.OK,
        WARNING,
        ERROR,
    ]


async def test_slow_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_checks, "_SLOW", 0.0)
    async with running_authority(tmp_path / "data") as running:
        assert [state for state, _ in problems(await check_store(running.store), "database")] == [WARNING]


def test_changed_record_is_told(patient: Patient) -> None:
    change(patient, "UPDATE audit SET actor = 'nobody' WHERE sequence = 1")
    assert patient.problems("audit records") == [(ERROR, "record 1 does not follow from the one before")]


# Keys and credentials


def test_ring_that_is_missing_or_lacks_a_key_is_told(patient: Patient) -> None:
    ring = KeyRing.load(patient.folder / "keyring.json")
    new = ring.with_new_key(mints_from=time.time() - 120)
    new.save(patient.folder / "keyring.json")
    assert patient.problems("master keys") == []
    new.without_key(1).save(patient.folder / "keyring.json")
    ((state, found),) = patient.problems("master keys")
    assert (state, "key 1 is not in the ring, and" in found) == (ERROR, True)
    (patient.folder / "keyring.json").unlink()
    ((state, found),) = patient.problems("master keys")
    assert (state, "there is no key ring" in found) == (ERROR, True)


def test_ring_of_another_database_is_told(patient: Patient) -> None:
    (patient.folder / "keyring.json").unlink()
    KeyRing.create(patient.folder / "keyring.json")
    ((state, found),) = patient.problems("signing keys")
    assert (state, "does not decrypt" in found) == (ERROR, True)


def test_old_key_that_nothing_needs_is_told(patient: Patient) -> None:
    ring = KeyRing.load(patient.folder / "keyring.json")
    for _ in range(2):
        ring = ring.with_new_key(mints_from=time.time() - 120)
    environ = {ENVIRONMENT_VARIABLE: ring._format().decode()}
    found = [finding for finding in patient.examine(environ=environ) if finding.check == "master keys"]
    assert [(each.found, each.mend) for each in found[1:]] == [
        ("key 2 is needed by nothing", "`rpz-auth-server keys retire 2`")
    ]


def test_signing_keys_that_nobody_rotates_are_told(patient: Patient) -> None:
    change(patient, "UPDATE signing_keys SET sign_at = sign_at - 200 * 86400")
    assert patient.problems("signing keys") == [(WARNING, "a successor is due")]
    change(patient, "UPDATE signing_keys SET sign_at = sign_at + 200 * 86400, retire_at = 1")
    assert patient.problems("signing keys") == [(WARNING, "1 should have been taken back")]
    change(patient, "UPDATE signing_keys SET sign_at = sign_at + 86400")
    ((state, found),) = patient.problems("signing keys")
    assert (state, "none signs" in found) == (ERROR, True)


def test_locked_issuer_and_another_one_are_told(patient: Patient) -> None:
    change(patient, "UPDATE issuer SET locked = 1")
    assert patient.problems("issuer") == [(WARNING, "it is locked: no credential is good")]
    ((state, found),) = patient.problems("issuer", issuer="https://auth.example")
    assert (state, "the settings say https://auth.example" in found) == (ERROR, True)


def test_credentials_that_end_soon_and_the_bootstrap_token_are_told(patient: Patient) -> None:
    token = (WARNING, "the token in bootstrap.json is alive, and may do everything")
    assert patient.problems("credentials") == [token]
    change(patient, "UPDATE issuer SET bootstrap_token_id = NULL")
    assert patient.problems("credentials") == [(WARNING, "1 API tokens end within 14 days")]
    change(patient, "UPDATE api_tokens SET revoked_at = 1")
    assert patient.problems("credentials") == []


# Reachability


async def examine_running(running: Any, **flags: Any) -> list[tuple[State, str]]:
    given = {"data_dir": running.settings.data_dir, "http_address": running.url.removeprefix("https://")}
    found = await examine({**given, **flags}, {})
    assert not [each for each in found if each.state is ERROR and each.check != "reachability"]
    return problems(found, "reachability")


async def test_running_authority_is_reached_beside_its_work(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "data") as running:
        # Its name leads to port 443, where nothing listens here.
        assert await examine_running(running) == [(WARNING, "https://localhost cannot be reached from here")]
        (running.settings.data_dir / "bootstrap.json").unlink()  # as operators are told to do
        flags = {"grpc_address": running.address, "issuer": running.settings.issuer}
        assert await examine_running(running, **flags) == [
            (WARNING, "https://localhost cannot be reached from here")
        ]


async def test_half_an_authority_is_told(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "data") as running:
        found = await examine_running(running, http_address=NOBODY_LISTENS)
        assert (ERROR, f"nothing listens on {NOBODY_LISTENS}") in found
        found = await examine_running(running, grpc_address=NOBODY_LISTENS)
        assert (ERROR, f"gRPC at {NOBODY_LISTENS} does not answer") in found


async def test_stranger_on_the_port_is_told(tmp_path: Path) -> None:
    async with (
        running_authority(tmp_path / "data") as running,
        running_authority(tmp_path / "other") as other,
    ):
        found = await examine_running(
            running, http_address=other.url.removeprefix("https://"), grpc_address=other.address
        )
        assert [(state, "is not trusted here" in text) for state, text in found[:2]] == [(ERROR, True)] * 2


async def test_other_issuer_behind_the_same_certificate_is_told(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "data") as running:
        where = {"grpc_address": running.address, "http_address": running.url.removeprefix("https://")}
        flags = {"data_dir": running.settings.data_dir, "issuer": "https://localhost:1", **where}
        found = problems(await check_reachability(Settings.load(flags, {})), "reachability")
        address = where["http_address"]
        assert found[0] == (ERROR, f"at {address} answers the issuer https://localhost")


async def test_private_ca_that_nobody_named_is_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with running_authority(folder) as running:
        own = DevelopmentFiles.of(folder)
        (folder / "bootstrap.json").unlink()
        flags = {"tls_certificate": own.server, "tls_key": own.server_key, "issuer": running.settings.issuer}
        found = await examine_running(running, grpc_address=running.address, **flags)
        assert [(state, "is not trusted here" in text) for state, text in found[:2]] == [(WARNING, True)] * 2


async def test_authority_that_is_stopping_is_told(tmp_path: Path) -> None:
    async with running_authority(tmp_path / "data") as running:
        running.server._health.stop()
        assert (await examine_running(running))[0] == (ERROR, f"gRPC at {running.address} is stopping")


def test_database_without_checksums_or_with_damage_is_told() -> None:
    everything = frozenset(MIGRATIONS)
    found = list(_state(Inspection(applied=everything, has_checksums=False)))
    assert [finding.state for finding in found] == [State.OK, WARNING]
    found = list(_state(Inspection(applied=everything, damage=("a page",))))
    assert [(finding.state, finding.found) for finding in found] == [(ERROR, "it is damaged: a page")]


async def test_certificate_that_is_demanded_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with running_authority(folder):
        pass
    ca = DevelopmentFiles.of(folder).ca
    async with running_authority(folder, tls_client_ca=ca) as running:
        assert (await examine_running(running, tls_client_ca=ca))[0][1].startswith(
            "it takes connections only"
        )
        issued = issue_client_certificate(folder, ["operator.example"])
        pair = {
            "client_certificate_pem": issued.certificate.decode(),
            "client_key_pem": issued.key.decode(),
        }
        path = folder / "bootstrap.json"
        files.replace(path, json.dumps({**json.loads(path.read_text()), **pair}).encode())
        assert await examine_running(running, tls_client_ca=ca) == [
            (WARNING, "https://localhost cannot be reached from here")
        ]


# The command


def doctor(*arguments: str) -> Any:
    addresses = ("--grpc-address", NOBODY_LISTENS, "--http-address", NOBODY_LISTENS)
    ended = CliRunner().invoke(app, ["doctor", *addresses, *arguments])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


def test_exit_code_is_one_for_errors_only(patient: Patient) -> None:
    well = doctor("--data-dir", str(patient.folder))
    assert (well.exit_code, well.stderr) == (0, "")
    assert well.stdout.splitlines()[-1] == "0 errors, 2 warnings"
    (patient.folder / "keyring.json").chmod(0o644)
    ill = doctor("--data-dir", str(patient.folder), "--json")
    assert (ill.exit_code, ill.stderr) == (1, "")
    told = json.loads(ill.stdout)
    assert told["errors"] == len([each for each in told["findings"] if each["state"] == "error"]) == 2
    assert all(set(each) == {"check", "state", "found", "mend"} for each in told["findings"])


def test_nothing_secret_is_told(patient: Patient) -> None:
    ring = json.loads((patient.folder / "keyring.json").read_text())["keys"]["1"]
    token = json.loads((patient.folder / "bootstrap.json").read_text())["api_token"]
    said = doctor("--data-dir", str(patient.folder), "--json").stdout
    assert ring not in said
    assert token not in said
