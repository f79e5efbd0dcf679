from __future__ import annotations

import datetime as dt
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from rpz_auth.errors import ConfigurationError
from rpz_auth_server.transport.tls.development import (
    CA_NAME,
    DevelopmentFiles,
    ensure_development_files,
    issue_client_certificate,
)

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def contents(paths: DevelopmentFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.folder.iterdir()}


def test_files_are_made_and_a_second_start_reuses_them(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    first = contents(paths)
    assert first.keys() == {"ca.pem", "ca.key", "server.pem", "server.key"}
    assert contents(ensure_development_files(tmp_path, now=NOW + 366 * DAY)) == first


def test_a123_keys_are_private(tmp_path: Path) -> None:
    old_umask = os.umask(0)
    try:
        paths = ensure_development_files(tmp_path, now=NOW)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(paths.ca_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.server_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.folder.stat().st_mode) == 0o700


def test_ca_can_sign_servers_and_clients_only(tmp_path: Path) -> None:
    ca = certificate(ensure_development_files(tmp_path, now=NOW).ca)
    assert ca.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == CA_NAME
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert not usage.value.crl_sign
    assert ca.not_valid_after_utc - NOW == 3652 * DAY


def test_server_certificate_is_for_this_machine(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    server, ca = certificate(paths.server), certificate(paths.ca)
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usages = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    authority = server.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == own
    assert server.not_valid_after_utc - NOW == 397 * DAY


def test_server_certificate_is_renewed_a_month_ahead_by_the_same_ca(tmp_path: Path) -> None:
    before = contents(ensure_development_files(tmp_path, now=NOW))
    later = NOW + 368 * DAY
    paths = ensure_development_files(tmp_path, now=later)
    after = contents(paths)
    assert (after["ca.pem"], after["ca.key"]) == (before["ca.pem"], before["ca.key"])
    assert certificate(paths.server).not_valid_after_utc == later + 397 * DAY
    assert after["server.key"] != before["server.key"]


def test_server_certificate_does_not_outlive_its_ca_and_both_are_renewed_in_the_end(tmp_path: Path) -> None:
    ensure_development_files(tmp_path, now=NOW)
    paths = ensure_development_files(tmp_path, now=NOW + 3600 * DAY)
    assert certificate(paths.server).not_valid_after_utc == certificate(paths.ca).not_valid_after_utc
    ensure_development_files(tmp_path, now=NOW + 3640 * DAY)
    assert certificate(paths.ca).not_valid_after_utc == NOW + (3640 + 3652) * DAY
    certificate(paths.server).verify_directly_issued_by(certificate(paths.ca))


@pytest.mark.parametrize(
    "left",
    [
        [],
        ["ca.key"],
        ["ca.key", "ca.pem"],
        ["ca.key", "ca.pem", "server.key"],
        ["ca.key", "ca.pem", "server.pem"],
    ],
)
def test_start_that_was_cut_short_is_made_up_for_by_the_next(tmp_path: Path, left: list[str]) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    for path in paths.folder.iterdir():
        if path.name not in left:
            path.unlink()
    ensure_development_files(tmp_path, now=NOW)
    certificate(paths.server).verify_directly_issued_by(certificate(paths.ca))
    assert len(contents(paths)) == 4


def test_renewal_that_was_cut_short_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    other = ensure_development_files(tmp_path / "other", now=NOW)
    paths.server_key.write_bytes(other.server_key.read_bytes())
    before = paths.server.read_bytes()
    ensure_development_files(tmp_path, now=NOW)
    assert paths.server.read_bytes() != before


def test_server_certificate_of_another_ca_is_made_anew(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    other = ensure_development_files(tmp_path / "other", now=NOW)
    other.ca.replace(paths.ca)
    other.ca_key.replace(paths.ca_key)
    ensure_development_files(tmp_path, now=NOW)
    certificate(paths.server).verify_directly_issued_by(certificate(paths.ca))


def test_ca_key_may_be_kept_elsewhere_until_it_is_needed(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    paths.ca_key.unlink()
    ensure_development_files(tmp_path, now=NOW)
    with pytest.raises(ConfigurationError, match=r"ca\.key is missing"):
        ensure_development_files(tmp_path, now=NOW + 380 * DAY)


def test_foreign_ca_key_signs_nothing(tmp_path: Path) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    other = ensure_development_files(tmp_path / "other", now=NOW)
    paths.ca_key.write_bytes(other.ca_key.read_bytes())
    with pytest.raises(ConfigurationError, match="is not the key of the certificate"):
        issue_client_certificate(tmp_path, ["client.example"], now=NOW)


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
@pytest.mark.parametrize("name", ["ca.pem", "server.pem", "server.key"])
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    paths = ensure_development_files(tmp_path, now=NOW)
    (paths.folder / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=name):
        ensure_development_files(tmp_path, now=NOW)


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(ConfigurationError, match=f"TLS file {tmp_path}/tls"):
        ensure_development_files(tmp_path)


@pytest.mark.parametrize(
    "names", [[], [""], ["a b"], ["Client.example"], ["a."], ["*.example"], ["bücher.example"]]
)
def test_client_certificate_is_for_exact_names(tmp_path: Path, names: list[str]) -> None:
    ensure_development_files(tmp_path, now=NOW)
    with pytest.raises(ConfigurationError, match="DNS name"):
        issue_client_certificate(tmp_path, names, now=NOW)


def test_r126_client_key_is_not_in_the_representation(tmp_path: Path) -> None:
    ensure_development_files(tmp_path, now=NOW)
    assert "PRIVATE KEY" not in repr(issue_client_certificate(tmp_path, ["client.example"], now=NOW))


def test_client_certificate_needs_a_ca(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ca\.pem is missing"):
        issue_client_certificate(tmp_path, ["client.example"])
