"""The files of a port's certificates, which somebody renews now and then."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import structlog
from rpz_auth.errors import ConfigurationError

from rpz_auth_server.settings import Settings
from rpz_auth_server.transport.tls.development import ensure_development_files

T = TypeVar("T")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a port's certificate is, its key, and the CA of the certificates that clients must show."""

    certificate: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def of(cls, settings: Settings) -> CertificateFiles:
        """The administrator's; without `tls_certificate`, made for development.

        Raises:
            ConfigurationError: A development certificate cannot be made.
        """
        if settings.tls_certificate is not None and settings.tls_key is not None:
            return cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        made = ensure_development_files(settings.data_dir)
        return cls(made.server, made.server_key, settings.tls_client_ca)


class Followed(Generic[T]):
    """What a port needs of its files, made anew when they were replaced."""

    def __init__(self, files: CertificateFiles, make: Callable[[CertificateFiles], T]) -> None:
        """Make it of what the files hold now.

        Raises:
            ConfigurationError: One is missing or wrong, or they do not belong together.
        """
        self._files = files
        self._make = make
        self._fault = ""
        """As it was told; each handshake finds it again."""
        self._renewing = threading.Lock()
        try:
            self._seen, self.newest = self._state(), make(files)
        except OSError as error:
            raise ConfigurationError(f"TLS file {error.filename}: {error.strerror}") from None

    def renew(self) -> bool:
        """Tell whether `newest` is another now. While files are being replaced, those before stay in use."""
        with self._renewing:
            try:
                state = self._state()
                if state == self._seen:
                    return False
                self.newest = self._make(self._files)
            except (OSError, ConfigurationError) as error:
                if str(error) != self._fault:
                    self._fault = str(error)
                    _log.warning("the TLS files cannot be used; those before stay in use", reason=self._fault)
                return False
            self._seen, self._fault = state, ""
            return True

    def _state(self) -> object:
        files = self._files
        paths = [path for path in (files.certificate, files.key, files.client_ca) if path]
        return [(stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in map(Path.stat, paths)]
