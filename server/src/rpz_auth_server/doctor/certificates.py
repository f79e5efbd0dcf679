"""TLS certificates: whether they fit, until when, and for which names."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.doctor.finding import Check, Finding
from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.tls.development import DevelopmentFiles
from rpz_auth_server.transport.tls.pem import read_pair

_CHECK = Check("certificates")
_SOON = dt.timedelta(days=14)


def check_certificates(settings: Settings, now: dt.datetime) -> Sequence[Finding]:
    """Look at the files of both ports and of client authorities; none is made."""
    if settings.insecure:
        return [_CHECK.ok("none is used, without TLS")]
    own = DevelopmentFiles.of(settings.data_dir)
    certificate, key = settings.tls_certificate or own.server, settings.tls_key or own.server_key
    if settings.tls_certificate is None and not certificate.exists():
        return [_CHECK.warning(f"{certificate} is missing", "the next start makes it")]
    try:
        read_pair(certificate, key)
        findings = [_describe(path, each, now) for path, each in _all(settings, own, certificate)]
    except OSError as error:
        return [_CHECK.error(f"{error.filename}: {error.strerror}", "put it back, or name another")]
    except (ConfigurationError, ValueError) as error:
        return [_CHECK.error(str(error), "put the right files there; open connections go on meanwhile")]
    return [*findings, *_names(settings, certificate)]


def name_of(settings: Settings) -> str:
    """A name that the server's certificate has: whether it is the issuer's, has a finding of its own."""
    path = settings.tls_certificate or DevelopmentFiles.of(settings.data_dir).server
    try:
        names = _alternative_names(x509.load_pem_x509_certificate(path.read_bytes()))
    except (OSError, ValueError):
        names = x509.SubjectAlternativeName([])
    known = names.get_values_for_type(x509.DNSName)
    return known[0] if known else urlsplit(settings.issuer).hostname or ""


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _all(
    settings: Settings, own: DevelopmentFiles, certificate: Path
) -> Iterator[tuple[Path, x509.Certificate]]:
    paths = [certificate, *([own.ca] if settings.tls_certificate is None else [])]
    paths += [settings.tls_client_ca] if settings.tls_client_ca else []
    for path in paths:
        yield from ((path, each) for each in x509.load_pem_x509_certificates(path.read_bytes()))


def _describe(path: Path, certificate: x509.Certificate, now: dt.datetime) -> Finding:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    subject = certificate.subject.rfc4514_string() or "a certificate without a subject"
    what = f"{path} ({subject})"
    renew = "renew it where it is; it is taken over without a restart. One of the authority's own making is "
    renew += "renewed by a restart"
    if now < start:
        return _CHECK.error(f"{what} is valid only from {start:%Y-%m-%d %H:%M} UTC", "is the clock right?")
    if now >= end:
        return _CHECK.error(f"{what} has expired on {end:%Y-%m-%d}", renew)
    if now >= end - _SOON:
        return _CHECK.warning(f"{what} expires on {end:%Y-%m-%d}, in {(end - now).days} days", renew)
    return _CHECK.ok(f"{what} is valid until {end:%Y-%m-%d}")


def _names(settings: Settings, path: Path) -> Iterator[Finding]:
    names = _alternative_names(x509.load_pem_x509_certificate(path.read_bytes()))
    known = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    known |= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    host = (urlsplit(settings.issuer).hostname or "").lower()
    if host not in known and f"*.{host.partition('.')[2]}" not in known:
        yield _CHECK.warning(
            f"{path} is not for {host}, where clients look for the issuer",
            "get one with that name, unless a proxy with one of its own stands in front",
        )
