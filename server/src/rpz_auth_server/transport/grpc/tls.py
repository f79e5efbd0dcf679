"""TLS for the port of gRPC."""

from __future__ import annotations

import grpc

from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.tls import pem
from rpz_auth_server.transport.tls.followed import CertificateFiles, Followed


def server_credentials(settings: Settings) -> grpc.ServerCredentials:
    """Make credentials for a server's port, which follow their files when these are replaced.

    Clients must show a certificate if `tls_client_ca` is set; grpc cannot ask for one without demanding
    it. Without `tls_certificate` a development certificate is made.

    Raises:
        ConfigurationError: A file cannot be used.
    """
    files = CertificateFiles.of(settings)
    followed = Followed(files, _configuration)

    def changed() -> grpc.ServerCertificateConfiguration | None:  # asked before each handshake
        return followed.newest if followed.renew() else None

    return grpc.dynamic_ssl_server_credentials(
        followed.newest,
        changed,  # type: ignore[arg-type]  # the stub forgets None, which means no change
        require_client_authentication=files.client_ca is not None,
    )


def _configuration(files: CertificateFiles) -> grpc.ServerCertificateConfiguration:
    chain, key = pem.read_pair(files.certificate, files.key)
    client_ca = None
    if files.client_ca is not None:
        client_ca = files.client_ca.read_bytes()
        pem.parse_certificate(client_ca, files.client_ca)
    return grpc.ssl_server_certificate_configuration([(key, chain)], client_ca)
