"""The files that say where an authority is: what may stand in them, and what is said when it may not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rpz_auth
from rpz_auth.asgi import AuthMiddleware
from rpz_auth.connection_file import ConnectionFile, VerifierFile
from rpz_auth.ext_authz import ExtAuthz
from rpz_auth_server.transport.tls.development import ensure_development_files, issue_client_certificate
from server.cli.command import run
from support.authority import RESOURCE, running_authority

DEADLINE = 30.0
PEM = "-----BEGIN CERTIFICATE-----\n"
TEXTS: dict[str, Any] = {
    "grpc_address": "auth:1",
    "issuer": "https://auth",
    "app_id": "a",
    "api_token": "canary",
}


def write(path: Path, **members: Any) -> Path:
    path.write_text(json.dumps({"kind": "verifier", **TEXTS, **members}))
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = VerifierFile(
        **TEXTS,
        ca_certificate_pem=PEM,
        client_certificate_pem=PEM,
        client_key_pem=PEM,
        resources=(RESOURCE,),
    )
    path = tmp_path / "file"
    path.write_text(file.write())
    assert VerifierFile.read(path) == file
    assert "canary" not in repr(file)
    assert "client_key_pem" not in repr(file)


def test_certificates_may_be_paths_from_the_files_own_folder(tmp_path: Path) -> None:
    for name in ("ca", "chain", "key"):
        (tmp_path / name).write_text(PEM + name)
    members = {"ca_certificate": "ca", "client_certificate": "chain", "client_key": str(tmp_path / "key")}
    read = ConnectionFile.read(write(tmp_path / "file", **members))
    assert read == ConnectionFile(
        kind="verifier",
        **TEXTS,
        ca_certificate_pem=f"{PEM}ca",
        client_certificate_pem=f"{PEM}chain",
        client_key_pem=f"{PEM}key",
    )


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"api_token": 7}, "is no file for connections"),
        ({"kind": None}, "is no file for connections"),
        ({"insecure": "no"}, "is no file for connections"),
        ({"resources": RESOURCE}, "is no file for connections"),
        ({"resources": [1]}, "is no file for connections"),
        ({"client_key": 1}, "is no file for connections"),
        ({"client_key_pem": [PEM]}, "is no file for connections"),
        ({"ca_certificate_pem": 7}, "is no file for connections"),
        ({"client_certificate_pem": PEM}, "go together"),
        ({"client_key_pem": PEM}, "go together"),
        ({"client_key_pem": PEM, "client_certificate_pem": PEM, "insecure": True}, "without TLS"),
        ({"ca_certificate": "/nowhere"}, "/nowhere cannot be read here"),
        ({"ca_certificate_pem": "canary"}, "ca_certificate is not PEM"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_quotes_nothing(
    members: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "file", **members)
    with pytest.raises(rpz_auth.ConfigurationError, match=message) as raised:
        rpz_auth.connect(path)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("guard", [rpz_auth.AuthInterceptor, ExtAuthz, AuthMiddleware])
def test_a_resource_that_the_file_is_not_for_is_an_error_at_start_up(guard: Any, tmp_path: Path) -> None:
    arguments = {"policies": {"/grpc.health.v1.Health/Check": rpz_auth.PUBLIC}}
    before: tuple[Any, ...] = ()
    if guard is AuthMiddleware:
        arguments, before = {"policies": {"/": rpz_auth.PUBLIC}}, (None,)
    file = write(tmp_path / "file", resources=["https://a.example", "https://b.example"])
    connection = rpz_auth.connect(file)
    with pytest.raises(
        rpz_auth.ConfigurationError, match=r"https://c\.example.*https://a\.example, https://b\."
    ):
        guard(*before, authority=connection, resource="https://c.example", **arguments)
    guard(*before, authority=connection, resource="https://b.example", **arguments)


def test_a_file_from_before_resources_were_written_down_still_works(tmp_path: Path) -> None:
    connection = rpz_auth.connect(write(tmp_path / "file"))
    assert connection.resources is None
    policies = {"/grpc.health.v1.Health/Check": rpz_auth.PUBLIC}
    rpz_auth.AuthInterceptor(connection, resource="https://any.example", policies=policies)


def test_an_authority_that_demands_certificates_is_reached_by_command_and_service(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    paths = ensure_development_files(data_dir)
    issued = issue_client_certificate(data_dir, ["orders.example"])
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(issued.certificate)
    key.write_bytes(issued.key)
    with running_authority(data_dir, "--tls-client-ca", str(paths.ca)) as authority:
        without = authority.data_dir / "bootstrap.json"
        content = authority.bootstrap
        by_path, inline = tmp_path / "by-path.json", tmp_path / "inline.json"
        by_path.write_text(
            json.dumps({**content, "client_certificate": "chain.pem", "client_key": "key.pem"})
        )
        pems = {"client_certificate_pem": chain.read_text(), "client_key_pem": key.read_text()}
        inline.write_text(json.dumps({**content, **pems}))
        assert run(["--credentials", str(without), "apps", "list"]).err.startswith("UNAVAILABLE: ")
        assert run(["--credentials", str(inline), "apps", "list"]).code == 0
        verifier, bare = tmp_path / "orders.json", tmp_path / "bare.json"
        create = ["--credentials", str(by_path), "apps", "create", "orders", "--resource", RESOURCE]
        pair = ["--client-certificate", str(chain), "--client-key", str(key)]
        assert run([*create, "--verifier", str(verifier), *pair]).code == 0
        assert run([*create, "--verifier", str(bare)]).code == 0
        with pytest.raises(rpz_auth.BackendUnavailable):
            wait_for(bare, 0.5)
        wait_for(verifier, DEADLINE)
        for wrong in (pair[:2], ["--client-certificate", str(chain), "--client-key", str(chain)]):
            result = run([*create, "--verifier", str(tmp_path / "wrong.json"), *wrong])
            assert (result.code, "--client-certificate" in result.err) == (2, True)


def wait_for(file: Path, timeout: float) -> None:
    connection = rpz_auth.connect(file)
    connection.start()
    try:
        connection.wait(timeout)
    finally:
        connection.close()
