"""Nothing that the authority leaves on disk can be used to call anything."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path

import grpc
import pytest
import rpz_auth
from rpz.auth.v1 import token_service_pb2 as token_pb
from support.at_rest import credentials_in, files_at_rest
from support.authority import CODE_VERIFIER, RESOURCE, AuthorityProcess


def forms(credential: str) -> list[bytes]:
    """How a credential might be kept: as it is, decoded, its proving part alone, or hashed without a key."""
    text = credential.encode()
    found = [
        text,
        base64.b64encode(text),
        hashlib.sha256(text).digest(),
        hashlib.sha256(text).hexdigest().encode(),
    ]
    if credential.startswith("rpz"):
        raw = base64.urlsafe_b64decode(credential[5:])
        found += [raw, raw[24:40], raw[24:40].hex().encode(), text[5:]]
    if credential.startswith("eyJ"):
        signature = credential.rpartition(".")[2]
        found += [signature.encode(), base64.urlsafe_b64decode(signature + "==")]
    return found


def test_a122_a123_a124_no_issued_credential_and_no_private_key_is_at_rest(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    authority = AuthorityProcess(data_dir, "--log-level=debug", "--log-format=json")
    issued: list[str] = [authority.bootstrap["api_token"], CODE_VERIFIER]
    try:
        client = authority.create_client()
        code, unused = authority.issue_code(client), authority.issue_code(client)
        first = authority.exchange(client, code)
        second = authority.refresh(client, first.refresh_token)
        api_token = authority.tokens.CreateApiToken(
            token_pb.CreateApiTokenRequest(app_id=client.app_id, scopes=["orders.read"], resources=[RESOURCE])
        ).api_token
        issued += [client.secret, code, unused, first.access_token, first.refresh_token]
        issued += [second.access_token, second.refresh_token, api_token]
        # Refusals are where secrets like to end up in logs.
        basic = rpz_auth.ApiToken(client.app_id, client.secret).field_value()
        for request in (
            lambda: authority.exchange(client, code),
            lambda: authority.refresh(client, second.refresh_token),
            lambda: authority.refresh(client, second.access_token),
            lambda: authority.anonymous.Refresh(
                token_pb.RefreshRequest(refresh_token=second.refresh_token),
                metadata=(("authorization", basic),) * 2,
            ),
            lambda: authority.tokens.IssueCode(
                token_pb.IssueCodeRequest(client_id=client.secret, redirect_uri=api_token, subject=unused)
            ),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                request()
            assert not any(credential in (refused.value.details() or "") for credential in issued)
        while_running = {path: path.read_bytes() for path in files_at_rest(tmp_path)}
    finally:
        authority.stop()
    after = {path: path.read_bytes() for path in files_at_rest(tmp_path)}
    assert {"rpz-auth.db", "rpz-auth.db-wal"} <= {path.name for path in while_running}
    assert authority.log in after
    found = [
        (path.name, credential[:5])
        for files in (while_running, after)
        for path, content in files.items()
        for credential in issued
        if any(form in content for form in forms(credential))
    ]
    assert found == []
    assert credentials_in(tmp_path) == []
    keys = json.loads((data_dir / "keyring.json").read_text())["keys"]
    assert not any(
        marker in content
        for content in after.values()
        for marker in (b"PRIVATE KEY", *(key.encode() for key in keys.values()))
    )


def test_a123_only_the_owner_can_open_what_is_secret(tmp_path: Path) -> None:
    authority = AuthorityProcess(tmp_path / "data")
    try:
        files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert {
            "keyring.json",
            "bootstrap.json",
            "rpz-auth.db",
            "rpz-auth.db-wal",
            "ca.key",
            "server.key",
        } <= {path.name for path in files}
        public = {path.name for path in files if stat.S_IMODE(path.stat().st_mode) != 0o600}
        assert public == {"ca.pem", "server.pem"}
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    finally:
        authority.stop()
