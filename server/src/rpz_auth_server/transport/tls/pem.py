"""Certificates and private keys in PEM files, and whether they belong together."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from rpz_auth.errors import ConfigurationError


def read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """Read a certificate and the key that belongs to it; return what the files hold.

    Raises:
        ConfigurationError: One is not what it should be, or they do not belong together.
        OSError: One cannot be read.
    """
    chain, pem = certificate.read_bytes(), key.read_bytes()
    if not are_pair(parse_certificate(chain, certificate), parse_key(pem, key)):
        raise ConfigurationError(f"{key} is not the key of the certificate in {certificate}")
    return chain, pem


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate, the first if there are several.

    Raises:
        ConfigurationError: There is none in the file.
        OSError: It cannot be read.
    """
    return parse_certificate(path.read_bytes(), path)


def parse_certificate(pem: bytes, path: Path) -> x509.Certificate:
    """Parse what a file holds.

    Raises:
        ConfigurationError: It is no certificate.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise ConfigurationError(f"{path} does not hold a certificate in PEM") from None


def parse_key(pem: bytes, path: Path) -> PrivateKeyTypes:
    """Parse what a file holds.

    Raises:
        ConfigurationError: It is no private key, or an encrypted one.
    """
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it asks for a password
        raise ConfigurationError(f"{path} does not hold an unencrypted private key in PEM") from None


def are_pair(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Tell whether a certificate is for a key."""
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)
