"""TLS for the port of HTTPS."""

from __future__ import annotations

import ssl

from rpz_auth.errors import ConfigurationError

from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.tls.followed import CertificateFiles, Followed


def server_context(settings: Settings) -> ssl.SSLContext:
    """Make a context that follows its files: each handshake looks whether they were replaced.

    Clients must show a certificate if `tls_client_ca` is set, as on the port of gRPC.

    Raises:
        ConfigurationError: A file cannot be used.
    """
    followed = Followed(CertificateFiles.of(settings), _context)
    context = followed.newest

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        followed.renew()
        connection.context = followed.newest

    # Called in every handshake, also for clients that name no server.
    context.sni_callback = renew
    return context


def _context(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # the default, spelled out (R125)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError:
        raise ConfigurationError(
            f"{files.certificate} and {files.key} are not a certificate and its unencrypted key in PEM, "
            "or tls_client_ca holds no certificate"
        ) from None
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    return ""
