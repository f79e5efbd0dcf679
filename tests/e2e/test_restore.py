"""The day after a backup is lost, and the backup restored."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from pathlib import Path
from typing import Any

import grpc
from rpz.auth.v1 import token_service_pb2 as token_pb
from rpz_auth import credentials
from rpz_auth_server.main import app
from support.authority import (
    RESOURCE,
    AuthorityProcess,
    Client,
    reason,
    refresh_request,
    running_authority,
)
from support.orders import orders_service
from typer.testing import CliRunner

ISSUER = ("--issuer", "https://auth.example")
TIMEOUT = 30.0


def command(name: str, file: Path, data_dir: Path, *flags: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it said."""
    ended = CliRunner().invoke(app, [name, str(file), "--data-dir", str(data_dir), *flags])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.stdout + ended.stderr


def outcome(authority: AuthorityProcess, client: Client, refresh_token: str) -> Any:
    try:
        return authority.anonymous.Refresh(refresh_request(client, refresh_token))
    except grpc.RpcError as error:
        return reason(error)


def api_token(authority: AuthorityProcess, client: Client) -> tuple[str, str]:
    """A new API token: its ID, and the field that it travels in."""
    created = authority.tokens.CreateApiToken(
        token_pb.CreateApiTokenRequest(app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE])
    )
    return created.record.api_token_id, credentials.format_basic(client.app_id, created.api_token)


def test_restore_drill(tmp_path: Path) -> None:
    folder, copy = tmp_path / "authority", tmp_path / "backup.db"
    first = AuthorityProcess(folder, *ISSUER)
    try:
        client = first.create_client()
        idle, busy = (
            first.exchange(client, first.issue_code(client, user)) for user in ("user:idle", "user:busy")
        )
        _, kept = api_token(first, client)
        revoked_id, revoked = api_token(first, client)
        verifier = first.create_verifier(tmp_path / "orders.json")
        code, said = command("backup", copy, folder)
        assert code == 0, said
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert command("backup", copy, folder)[0] == 1  # it is not overwritten

        with orders_service(verifier) as service:
            # The day after.
            newest: Any = busy
            for _ in range(3):
                newest = first.refresh(client, newest.refresh_token)
            late = first.exchange(client, first.issue_code(client, "user:late"))
            late_client = first.create_client(display_name="late")
            _, made_late = api_token(first, client)
            first.tokens.RevokeApiToken(
                token_pb.RevokeApiTokenRequest(app_id=client.app_id, api_token_id=revoked_id)
            )
            access = [credentials.format_bearer(tokens.access_token) for tokens in (idle, newest, late)]
            for credential in (*access, kept, made_late):
                service.wait_for(credential, None)
            service.wait_for(revoked, "TOKEN_INVALID")

            code, said = command("restore", copy, folder)
            assert (code, "stop it first" in said) == (1, True)
            first.kill()
            code, said = command("restore", copy, folder)
            assert code == 0, said
            assert len(list(folder.glob("rpz-auth.db.before-restore-*"))) == 1
            second = AuthorityProcess(folder, "--grpc-address", first.address, *ISSUER)
            try:
                # The verifier, whose cursor is of the lost future, learns what is so now without a restart.
                for credential in access:
                    service.wait_for(credential, "TOKEN_INVALID")
                service.wait_for(made_late, "TOKEN_INVALID")
                service.wait_for(kept, None)
                assert service.answer(revoked) == "TOKEN_INVALID"  # what it knows stays with it
                # Who was away meanwhile goes on; what was issued after the backup is good for nothing.
                renewed = outcome(second, client, idle.refresh_token)
                service.wait_for(credentials.format_bearer(renewed.access_token), None)
                assert outcome(second, client, newest.refresh_token) == "GRANT_INVALID"
                assert outcome(second, client, late.refresh_token) == "GRANT_INVALID"
                assert outcome(second, late_client, idle.refresh_token) == "CLIENT_INVALID"
                assert second.exchange(client, second.issue_code(client, "user:busy")).access_token
                assert second.stop() == 0
            finally:
                if second.process.poll() is None:
                    second.kill()
    finally:
        if first.process.poll() is None:
            first.kill()


def test_later_refreshes_go_on_where_the_restore_is_told_to_keep_them(tmp_path: Path) -> None:
    folder, copy = tmp_path / "authority", tmp_path / "backup.db"
    with running_authority(folder, *ISSUER) as first:
        client = first.create_client()
        tokens = first.exchange(client, first.issue_code(client))
        assert command("backup", copy, folder)[0] == 0
        ahead = first.refresh(client, first.refresh(client, tokens.refresh_token).refresh_token)
    assert command("restore", copy, folder, "--keep-later")[0] == 0
    with running_authority(folder, *ISSUER) as second:
        renewed = outcome(second, client, ahead.refresh_token)
        assert renewed.access_token
        assert outcome(second, client, tokens.refresh_token) == "GRANT_INVALID"


def test_restore_of_what_is_no_backup_changes_nothing(tmp_path: Path) -> None:
    folder, copy = tmp_path / "authority", tmp_path / "backup.db"
    with running_authority(folder, *ISSUER):
        assert command("backup", copy, folder)[0] == 0
    database = folder / "rpz-auth.db"
    before = sorted(path.name for path in folder.iterdir())
    damaged, foreign, ring = tmp_path / "damaged.db", tmp_path / "foreign.db", folder / "keyring.json"
    content = bytearray(copy.read_bytes())
    content[4096 : 4096 + 2000] = bytes(2000)
    damaged.write_bytes(content)
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE t (x)")
    for file in (damaged, foreign, tmp_path / "missing.db", ring):
        code, said = command("restore", file, folder)
        assert code == 1, said
        assert str(file) in said
    other = tmp_path / "other"
    with running_authority(other, *ISSUER):
        pass
    ring.write_bytes((other / "keyring.json").read_bytes())
    code, said = command("restore", copy, folder)
    assert (code, "does not belong to this database" in said) == (1, True)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert database.exists()
