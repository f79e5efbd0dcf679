"""The program as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import rpz_auth
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpz.auth.v1 import app_service_pb2 as app_pb
from rpz.auth.v1 import app_service_pb2_grpc as app_grpc
from rpz.auth.v1 import verification_service_pb2 as verification_pb
from rpz.auth.v1 import verification_service_pb2_grpc as verification_grpc
from rpz_auth.connection_file import VerifierFile
from rpz_auth_server.serving import describe_connection
from rpz_auth_server.settings import Settings
from support.authority import AuthorityProcess, running_authority


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    program = str(Path(sys.executable).with_name("rpz-auth-server"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RPZ_AUTH_")}
    return subprocess.run(  # noqa: S603 - our own program
        [program, *arguments],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """It ended with an error for people, not with a traceback."""
    assert result.returncode == 1, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_second_server_on_the_same_port_fails_with_a_clear_error(tmp_path: Path) -> None:
    with running_authority(tmp_path / "one") as first:
        result = run("serve", "--data-dir", str(tmp_path / "two"), "--grpc-address", first.address)
        assert_refused(result, f"cannot listen on {first.address}", "another program has the port")
        first.apps.ListApps(app_pb.ListAppsRequest())


@pytest.mark.parametrize("flag", ["--grpc-address", "--http-address", "--console-address"])
def test_server_that_finds_a_port_taken_founds_no_authority(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        free = ("--grpc-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0")
        result = run("serve", "--data-dir", str(tmp_path / "new"), *free, flag, taken)
    assert_refused(result, f"cannot listen on {taken}", f"choose another with {flag}")
    assert not (tmp_path / "new").exists()  # with an issuer that names the port that it cannot have


def test_database_that_cannot_be_had_is_told_with_the_reason_and_without_the_password(tmp_path: Path) -> None:
    url = "postgresql://rpz:canary@127.0.0.1:1/none"
    result = run("serve", "--data-dir", str(tmp_path), "--grpc-address", "127.0.0.1:0", "--database", url)
    assert_refused(result, "the database does not answer at the moment", "Connection refused")
    assert "canary" not in result.stderr


def test_second_server_that_fails_leaves_the_first_ones_files_alone(tmp_path: Path) -> None:
    with running_authority(tmp_path / "one") as first:
        path = first.data_dir / "bootstrap.json"
        before = path.read_bytes()
        assert_refused(run("serve", "--data-dir", str(first.data_dir), "--grpc-address", first.address))
        assert path.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_streams_says_not_serving_and_exits_with_zero(
    tmp_path: Path, number: signal.Signals
) -> None:
    authority = AuthorityProcess(tmp_path / "authority")
    try:
        file = VerifierFile.read(authority.create_verifier(tmp_path / "orders.json"))
        verifier = rpz_auth.ApiToken(file.app_id, file.api_token)
        with (
            rpz_auth.secure_channel(authority.address, verifier, tls=authority.tls) as channel,
            grpc.secure_channel(authority.address, authority.tls) as anonymous,
        ):
            watch: Any = verification_grpc.VerificationServiceStub(channel).Watch(
                verification_pb.WatchRequest()
            )
            assert next(watch).HasField("snapshot")
            stub: Any = health_pb2_grpc.HealthStub(anonymous)
            health = stub.Watch(health_pb2.HealthCheckRequest())
            assert next(health).status == health_pb2.HealthCheckResponse.SERVING
            authority.process.send_signal(number)
            assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
            health.cancel()
            for message in watch:
                assert not message.HasField("snapshot") or message.snapshot.last
            assert watch.code() is grpc.StatusCode.OK
            assert authority.process.wait(timeout=30) == 0
        log = authority.log.read_text()
        assert '"stopped"' in log
        assert "Traceback" not in log
    finally:
        authority.kill()


def test_second_start_on_the_same_port_reuses_everything(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    issuer = ("--issuer", "https://auth.example")  # else derived from the port, which is not known yet
    with running_authority(folder, *issuer) as first:
        client = first.create_client()
        tokens = first.exchange(client, first.issue_code(client))
        address, before = first.address, (folder / "bootstrap.json").read_bytes()
    second = AuthorityProcess(folder, "--grpc-address", address, *issuer)
    try:
        assert (folder / "bootstrap.json").read_bytes() == before
        assert second.refresh(client, tokens.refresh_token).access_token
        assert second.stop() == 0
    finally:
        second.kill()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "localhost:0"])
def test_r125_without_tls_only_a_loopback_address_is_taken(tmp_path: Path, address: str) -> None:
    folder = tmp_path / "authority"
    named = ("--grpc-address", address, "--issuer", "https://auth.example")
    result = run("serve", "--data-dir", str(folder), *named, "--insecure")
    assert_refused(result, "--insecure", "loopback")
    assert not folder.exists()


def test_r125_without_tls_on_loopback_it_serves_with_a_loud_warning(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    folder.mkdir()
    program = str(Path(sys.executable).with_name("rpz-auth-server"))
    process = subprocess.Popen(  # noqa: S603 - our own program
        [program, "serve", "--data-dir", str(folder), "--grpc-address", "127.0.0.1:0", "--insecure"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("rpz-auth-server listens on")
        assert process.stdout.readline().startswith("administrator:")
        content = json.loads((folder / "bootstrap.json").read_text())
        assert (content["ca_certificate"], content["insecure"]) == (None, True)
        credential = rpz_auth.ApiToken(content["app_id"], content["api_token"])
        metadata = (("authorization", credential.field_value()),)
        with grpc.insecure_channel(content["grpc_address"]) as channel:
            stub: Any = app_grpc.AppServiceStub(channel)
            assert stub.ListApps(app_pb.ListAppsRequest(), metadata=metadata).apps
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "INSECURE" in log
    finally:
        process.kill()
        process.communicate()


def test_r125_server_with_tls_takes_no_plaintext(tmp_path: Path) -> None:
    with (
        running_authority(tmp_path / "authority") as authority,
        grpc.insecure_channel(authority.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_missing_key_ring_of_an_existing_database_is_refused(tmp_path: Path) -> None:
    with running_authority(tmp_path / "authority"):
        pass
    (tmp_path / "authority" / "keyring.json").unlink()
    result = run("serve", "--data-dir", str(tmp_path / "authority"), "--grpc-address", "127.0.0.1:0")
    assert_refused(result, "there is no key ring at", "put it back")
    assert not (tmp_path / "authority" / "keyring.json").exists()


def test_settings_that_cannot_be_used_are_an_error_for_people(tmp_path: Path) -> None:
    result = run("serve", "--data-dir", str(tmp_path), RPZ_AUTH_GRPC_ADRESS="127.0.0.1:0")
    assert_refused(result, "RPZ_AUTH_GRPC_ADRESS", "did you mean RPZ_AUTH_GRPC_ADDRESS?")


def test_data_directory_that_cannot_be_made_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "authority"
    result = run("serve", "--data-dir", str(folder), "--grpc-address", "127.0.0.1:0")
    assert_refused(result, str(folder))


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:0", "127.0.0.1:7"),
        ("[::1]:0", "[::1]:7"),
        ("0.0.0.0:0", "localhost:7"),
        ("[::]:0", "localhost:7"),
        ("auth.example:0", "auth.example:7"),
    ],
)
def test_file_names_an_address_that_can_be_connected_to(tmp_path: Path, address: str, told: str) -> None:
    flags = {"data_dir": tmp_path, "grpc_address": address, "issuer": "https://auth.example"}
    settings = Settings.load(flags, {})
    assert describe_connection(settings, 7) == {
        "grpc_address": told,
        "issuer": "https://auth.example",
        "ca_certificate": str(tmp_path / "tls" / "ca.pem"),
        "insecure": False,
    }
