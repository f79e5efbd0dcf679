from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from rpz_auth.address import certificate_names
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.grpc.tls import server_credentials
from rpz_auth_server.transport.tls.development import (
    DevelopmentFiles,
    IssuedCertificate,
    ensure_development_files,
    issue_client_certificate,
)
from structlog.testing import capture_logs


class _Echo(grpc.GenericRpcHandler):
    """Answers any call with the DNS names in the client's certificate."""

    def service(self, _details: Any) -> Any:
        def answer(_request: bytes, context: Any) -> bytes:
            return " ".join(sorted(certificate_names(context.auth_context()))).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def serving(credentials: grpc.ServerCredentials, host: str = "localhost") -> Iterator[int]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[_Echo()])
        port = server.add_secure_port(f"{host}:0", credentials)
        server.start()
        yield port
        server.stop(None).wait()


def call(target: str, ca: bytes, client: IssuedCertificate | None = None) -> bytes:
    credentials = grpc.ssl_channel_credentials(
        ca, client.key if client else None, client.certificate if client else None
    )
    with grpc.secure_channel(target, credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:
        method: Any = channel.unary_unary("/a/B")
        return bytes(method(b"", timeout=10))


def handshake(port: int, ca: Path, host: str = "localhost") -> dict[str, Any]:
    """Shake hands as strictly as Python 3.13 does by default; return the server's certificate."""
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=host) as connection,
    ):
        found = connection.getpeercert()
        assert found
        return dict(found)


def settings(tmp_path: Path, **flags: Any) -> Settings:
    return Settings.load({"data_dir": tmp_path, "grpc_address": "127.0.0.1:0", **flags}, {})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_chain_passes_the_strictest_verification_for_each_name(tmp_path: Path, host: str) -> None:
    with serving(server_credentials(settings(tmp_path))) as port:
        found = handshake(port, DevelopmentFiles.of(tmp_path).ca, host)
    assert found["subjectAltName"] == (
        ("DNS", "localhost"),
        ("IP Address", "127.0.0.1"),
        ("IP Address", "0:0:0:0:0:0:0:1"),
    )


def test_grpc_client_that_trusts_the_ca_calls_without_a_certificate(tmp_path: Path) -> None:
    with serving(server_credentials(settings(tmp_path))) as port:
        assert call(f"localhost:{port}", DevelopmentFiles.of(tmp_path).ca.read_bytes()) == b""


def test_clients_must_show_a_certificate_only_if_a_client_ca_is_set(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path)
    ensure_development_files(tmp_path / "foreign")
    client = issue_client_certificate(tmp_path, ["orders.example", "b.example"])
    stranger = issue_client_certificate(tmp_path / "foreign", ["orders.example"])
    ca = paths.ca.read_bytes()
    with serving(server_credentials(settings(tmp_path, tls_client_ca=paths.ca))) as port:
        assert call(f"localhost:{port}", ca, client) == b"b.example orders.example"
        for refused in (None, stranger):
            with pytest.raises(grpc.RpcError) as raised:
                call(f"localhost:{port}", ca, refused)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_replaced_files_are_used_for_the_next_connection(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    old, new = ensure_development_files(first), ensure_development_files(second)
    served = settings(first, tls_certificate=old.server, tls_key=old.server_key)
    with serving(server_credentials(served)) as port:
        handshake(port, old.ca)
        new.server_key.replace(old.server_key)
        with capture_logs() as logs:
            handshake(port, old.ca)  # half replaced: what was read before stays in use
        assert [entry["log_level"] for entry in logs] == ["warning"]
        new.server.replace(old.server)
        handshake(port, new.ca)
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(port, old.ca)
        old.server.unlink()
        with capture_logs() as logs:
            handshake(port, new.ca)
        assert [entry["log_level"] for entry in logs] == ["warning"]


@pytest.mark.parametrize("name", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_missing_file_of_the_administrator_is_named(tmp_path: Path, name: str) -> None:
    paths = ensure_development_files(tmp_path)
    given = {"tls_certificate": paths.server, "tls_key": paths.server_key, "tls_client_ca": paths.ca}
    with pytest.raises(ConfigurationError, match=r"missing\.pem: No such file"):
        server_credentials(settings(tmp_path, **{**given, name: tmp_path / "missing.pem"}))


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path)
    with pytest.raises(ConfigurationError, match="is not the key of the certificate"):
        server_credentials(settings(tmp_path, tls_certificate=paths.server, tls_key=paths.ca_key))


def test_client_ca_that_is_none_is_refused(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path)
    with pytest.raises(ConfigurationError, match=r"server\.key does not hold a certificate"):
        server_credentials(settings(tmp_path, tls_client_ca=paths.server_key))
