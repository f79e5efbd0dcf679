"""TLS certificates made for development, by an authority of their own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from rpz_auth.errors import ConfigurationError

from rpz_auth_server import files
from rpz_auth_server.transport.tls.pem import are_pair, load_certificate, parse_key

CA_NAME = "rpz-auth development CA"

_CA_LIFETIME = dt.timedelta(days=3652)
_LEAF_LIFETIME = dt.timedelta(days=397)  # what browsers take at most
_RENEW_BEFORE = dt.timedelta(days=30)
_CLOCK_DIFFERENCE = dt.timedelta(minutes=5)
_SERVER_NAMES: Sequence[x509.GeneralName] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
    x509.IPAddress(ipaddress.IPv6Address("::1")),
)
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DevelopmentFiles:
    """Where the development certificates of a data directory are."""

    folder: Path

    @classmethod
    def of(cls, data_dir: Path) -> DevelopmentFiles:
        """The ones of a data directory."""
        return cls(data_dir / "tls")

    @property
    def ca(self) -> Path:
        """What clients must trust."""
        return self.folder / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """The authority's private key."""
        return self.folder / "ca.key"

    @property
    def server(self) -> Path:
        """The server's certificate."""
        return self.folder / "server.pem"

    @property
    def server_key(self) -> Path:
        """The server's private key."""
        return self.folder / "server.key"


class _Authority:
    """A certificate authority."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, now: dt.datetime) -> tuple[_Authority, IssuedCertificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CA_NAME)])
        certificate = (
            _builder(name, name, key.public_key(), now, now + _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, SHA256())
        )
        return cls(certificate, key), _pem(certificate, key)

    def issue(
        self,
        common_name: str,
        names: Iterable[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        now: dt.datetime,
    ) -> IssuedCertificate:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        until = min(now + _LEAF_LIFETIME, self.certificate.not_valid_after_utc)
        own_id = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key(), now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False
            )
            .sign(self._key, SHA256())
        )
        return _pem(certificate, key)


def ensure_development_files(data_dir: Path, *, now: dt.datetime | None = None) -> DevelopmentFiles:
    """Make a development CA and a server certificate for this machine, or keep those that are there.

    A certificate is made anew when it is missing, does not fit its key or authority, or has less than
    30 days left. Keys are made before certificates, so that a start that was cut short is made up for
    by the next. A new CA must be handed to the clients.

    Args:
        data_dir: The files are made in its folder `tls`.
        now: An aware time; the system's if None.

    Raises:
        ConfigurationError: A file cannot be read or written, or the CA's key is missing when it is needed.
    """
    now = now or dt.datetime.now(dt.UTC)
    paths = DevelopmentFiles.of(data_dir)
    try:
        paths.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not paths.ca.exists() or load_certificate(paths.ca).not_valid_after_utc < now + _RENEW_BEFORE:
            _, issued = _Authority.create(now)
            files.replace(paths.ca_key, issued.key)
            files.replace(paths.ca, issued.certificate, mode=files.PUBLIC)
        if not _is_server_usable(paths, now):
            server_id = ExtendedKeyUsageOID.SERVER_AUTH
            issued = _load_authority(paths).issue("localhost", _SERVER_NAMES, server_id, now)
            files.replace(paths.server_key, issued.key)
            files.replace(paths.server, issued.certificate, mode=files.PUBLIC)
    except OSError as error:
        raise ConfigurationError(f"TLS file {error.filename}: {error.strerror}") from None
    return paths


def issue_client_certificate(
    data_dir: Path, names: Sequence[str], *, now: dt.datetime | None = None
) -> IssuedCertificate:
    """Make a certificate for a client, whose names `san:` entries of whitelists match.

    Args:
        data_dir: Whose development CA signs; there must be one.
        names: DNS names in lower case, international ones as A-labels.
        now: An aware time; the system's if None.

    Raises:
        ConfigurationError: There is no development CA, or a name is not a DNS name.
    """
    if not names:
        raise ConfigurationError("a client certificate needs at least one DNS name")
    for name in names:
        if not _DNS_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is not a DNS name in lower case without a trailing dot")
    return _load_authority(DevelopmentFiles.of(data_dir)).issue(
        "rpz-auth development client",
        [x509.DNSName(name) for name in names],
        ExtendedKeyUsageOID.CLIENT_AUTH,
        now or dt.datetime.now(dt.UTC),
    )


def _is_server_usable(paths: DevelopmentFiles, now: dt.datetime) -> bool:
    if not (paths.server.exists() and paths.server_key.exists()):
        return False
    certificate, ca = load_certificate(paths.server), load_certificate(paths.ca)
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return False
    key = parse_key(paths.server_key.read_bytes(), paths.server_key)
    return certificate.not_valid_after_utc >= now + _RENEW_BEFORE and are_pair(certificate, key)


def _load_authority(paths: DevelopmentFiles) -> _Authority:
    try:
        certificate, pem = load_certificate(paths.ca), paths.ca_key.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{error.filename} is missing, so that no certificate can be issued; put it back, or remove the "
            f"folder {paths.folder} for new certificates, and hand the new ca.pem to the clients"
        ) from None
    key = parse_key(pem, paths.ca_key)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not are_pair(certificate, key):
        raise ConfigurationError(f"{paths.ca_key} is not the key of the certificate in {paths.ca}")
    return _Authority(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    until: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_DIFFERENCE)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> IssuedCertificate:
    return IssuedCertificate(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
