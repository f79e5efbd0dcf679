"""TLS for the HTTPS port, from the same files as gRPC's."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.tls import certificate_files

_log = structlog.get_logger(__name__)


def server_context(settings: Settings) -> ssl.SSLContext:
    """Make a context that follows its files: each handshake looks whether they were replaced.

    Clients must show a certificate if `tls_client_ca` is set, as on the port of gRPC.

    Raises:
        ConfigurationError: A file cannot be used.
    """
    certificate, key = certificate_files(settings)
    source = _Source(certificate, key, settings.tls_client_ca)
    context = source.read()
    # Called in every handshake, also for clients that name no server.
    context.sni_callback = source.renew
    return context


class _Source:
    """Certificate, key and client CA in files that somebody renews now and then."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._fault = ""
        """As it was told; each handshake finds it again."""
        self._seen: object = None
        self._context: ssl.SSLContext | None = None

    def read(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            ConfigurationError: One is missing or wrong, or they do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # the default, spelled out (R125)
        context.set_alpn_protocols(["http/1.1"])
        try:
            self._seen = self._state()
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except ssl.SSLError:
            raise ConfigurationError(
                f"{self._certificate} and {self._key} are not a certificate and its unencrypted key in PEM, "
                "or tls_client_ca holds no certificate"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"TLS file {error.filename}: {error.strerror}") from None
        self._fault = ""
        return context

    def renew(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Use what stands in the files by now. While these are being replaced, the old stay in use."""
        try:
            if self._state() != self._seen:
                self._context = self.read()
        except (OSError, ConfigurationError) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                _log.warning("the TLS files cannot be used; those before stay in use", reason=self._fault)
        if self._context is not None:
            connection.context = self._context

    def _state(self) -> object:
        paths = [path for path in (self._certificate, self._key, self._client_ca) if path]
        return [(stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in map(Path.stat, paths)]


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    return ""
