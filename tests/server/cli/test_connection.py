"""Which credentials file is used, and what is said when it does not lead to an authority."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from rpz.auth.v1 import app_service_pb2 as pb
from rpz_auth_server.cli import connection
from rpz_auth_server.cli.options import DEFAULTS
from server.cli.command import Cli, run
from server.cli.conftest import FalseAuthority
from support.authority import AuthorityProcess

LIST = ["apps", "list"]


def write(path: Path, authority: AuthorityProcess, **changes: Any) -> Path:
    """The bootstrap file with changes; None removes a name."""
    content = {**authority.bootstrap, **changes}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return path


@pytest.mark.parametrize("default", DEFAULTS)
def test_file_is_found_in_the_working_directory(
    authority: AuthorityProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(LIST).code == 2
    write(tmp_path / default, authority)
    assert run(LIST).code == 0


def test_flag_wins_over_environment_wins_over_default(
    authority: AuthorityProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad = write(tmp_path / "good", authority), str(tmp_path / "bad")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bootstrap.json").write_text("{}")
    for name, other in ((str(good), bad), (bad, str(good))):
        expected = 0 if name == str(good) else 2
        assert run(LIST, environ={"RPZ_AUTH_CREDENTIALS": name}).code == expected
        assert run(["--credentials", name, *LIST], environ={"RPZ_AUTH_CREDENTIALS": other}).code == expected
        assert run([*LIST, "--credentials", name], environ={"RPZ_AUTH_CREDENTIALS": other}).code == expected
        assert run(["--credentials", other, *LIST, "--credentials", name]).code == expected


def test_json_can_be_asked_for_before_and_after_the_command(cli: Cli) -> None:
    assert cli("--json", *LIST).json == cli(*LIST, "--json").json


def test_without_a_file_the_mend_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(LIST)
    assert (result.code, result.out) == (2, "")
    for word in ("--credentials", "RPZ_AUTH_CREDENTIALS", "data/bootstrap.json", "rpz-auth-server serve"):
        assert word in result.err


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b'"text"', b"\xff", b"{}", b'{"api_token": "canary"}', b"[" * 5000],
)
def test_file_of_another_kind_is_wrong_usage_and_never_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    result = run(["--credentials", str(path), *LIST])
    assert (result.code, result.out) == (2, "")
    assert f"{path} is no file for connections" in result.err
    assert "canary" not in result.err


@pytest.mark.parametrize(
    "changes",
    [
        {"api_token": 7},
        {"grpc_address": ["a"]},
        {"insecure": "yes"},
        {"ca_certificate_pem": 1},
        {"ca_certificate": 1},
    ],
)
def test_value_of_another_type_is_wrong_usage(
    authority: AuthorityProcess, tmp_path: Path, changes: dict[str, object]
) -> None:
    path = write(tmp_path / "file", authority, **changes)
    result = run(["--credentials", str(path), *LIST])
    assert (result.code, result.out) == (2, "")
    assert f"{path} is no file for connections" in result.err


def test_certificate_authority_is_found_by_path_by_relative_path_or_inline(
    authority: AuthorityProcess, tmp_path: Path
) -> None:
    pem = Path(authority.bootstrap["ca_certificate"]).read_text()
    (tmp_path / "ca.pem").write_text(pem)
    relative = write(tmp_path / "relative", authority, ca_certificate="ca.pem")
    inline = write(tmp_path / "inline", authority, ca_certificate="/nowhere", ca_certificate_pem=pem)
    gone = write(tmp_path / "gone", authority, ca_certificate="/nowhere")
    assert run(["--credentials", str(relative), *LIST]).code == 0
    assert run(["--credentials", str(inline), *LIST]).code == 0
    result = run(["--credentials", str(gone), *LIST])
    assert result.code == 2
    assert "/nowhere cannot be read here" in result.err
    assert "ca_certificate_pem" in result.err


def test_token_that_no_header_can_carry_is_wrong_usage(authority: AuthorityProcess, tmp_path: Path) -> None:
    path = write(tmp_path / "file", authority, api_token="canary\n")
    result = run(["--credentials", str(path), *LIST])
    assert result.code == 2
    assert "cannot be sent" in result.err
    assert "canary" not in result.err


def test_token_that_is_not_accepted_leads_to_a_new_one(authority: AuthorityProcess, tmp_path: Path) -> None:
    path = write(tmp_path / "file", authority, api_token="rpzt_canary")
    result = run(["--credentials", str(path), *LIST])
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("TOKEN_INVALID: ")
    assert "rpz-auth-server bootstrap --data-dir" in result.err
    assert "canary" not in result.err


def test_whitelist_that_does_not_have_this_machine_is_named(
    cli: Cli, authority: AuthorityProcess, tmp_path: Path
) -> None:
    issuer = authority.bootstrap["issuer"]
    app_id = cli.create_app("away", "--scope", "rpz.apps", "--resource", issuer, "--allow", "192.0.2.1")
    token = cli.json("api-tokens", "create", app_id, "--scope", "rpz.apps", "--resource", issuer)["api_token"]
    path = write(tmp_path / "file", authority, app_id=app_id, api_token=token)
    result = run(["--credentials", str(path), *LIST])
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("ORIGIN_NOT_ALLOWED: ")
    assert "may not call from this machine" in result.err


def test_authority_that_is_not_there_is_named(authority: AuthorityProcess, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run(["--credentials", str(write(tmp_path / "file", authority, grpc_address=address)), *LIST])
    assert (result.code, result.out) == (1, "")
    first, second = result.err.splitlines()
    assert re.fullmatch(rf"UNAVAILABLE: cannot reach {address}: .*Connection refused.*", first)
    assert second == f"Is the authority running, and reachable from here as {address}?"
    assert authority.bootstrap["api_token"] not in result.err


def test_server_that_is_not_the_one_of_the_file_is_not_trusted(
    authority: AuthorityProcess, tmp_path: Path
) -> None:
    path = write(tmp_path / "file", authority, ca_certificate=None)
    result = run(["--credentials", str(path), *LIST])
    assert (result.code, result.out) == (1, "")
    first, second = result.err.splitlines()
    assert first.startswith(f"UNAVAILABLE: cannot reach {authority.address}: ")
    assert second.startswith("The server's certificate does not fit the credentials file")


def test_authority_that_does_not_answer_is_given_up(
    false_authority: FalseAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def keep_silent(_request: pb.LockAppRequest, context: Any) -> pb.LockAppResponse:
        context.add_callback(ended.set)
        ended.wait()
        return pb.LockAppResponse()

    monkeypatch.setattr(connection, "_TIMEOUT", 0.5)
    result = false_authority(LockApp=keep_silent)("apps", "lock", "x")
    assert (result.code, result.out) == (1, "")
    first, second = result.err.splitlines()
    assert re.fullmatch(r"DEADLINE_EXCEEDED: 127\.0\.0\.1:[0-9]+ did not answer within 0\.5 seconds", first)
    assert second == "Whether it was done is not known: look before you repeat it."
