"""The files that say where an authority is, whom to trust, and as which App to speak to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc

from rpz_auth.errors import ConfigurationError

_PEM_MEMBERS = ("ca_certificate", "client_certificate", "client_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFile:
    """A file of any kind: JSON, with the names of the fields.

    In the place of a member whose name ends in `_pem`, there may be one without that ending: the path of a
    PEM file, relative to the file's own folder.
    """

    kind: str = ""
    """`verifier` or `administrator`; empty in files that somebody has written by hand."""
    grpc_address: str
    issuer: str
    ca_certificate_pem: str | None = None
    """Whom to trust; None for the system's authorities."""
    client_certificate_pem: str | None = None
    """The chain to show to an authority that demands one (its setting `tls_client_ca`)."""
    client_key_pem: str | None = field(default=None, repr=False)
    insecure: bool = False
    """Without TLS; grpc then takes nothing but a loopback connection."""
    app_id: str
    api_token: str = field(repr=False)
    resources: tuple[str, ...] | None = None
    """What a verifier protects; None in files from before this was written down."""

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            ConfigurationError: It is missing or cannot be used; nothing of it is quoted.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise _no_file(path) from None
        if not isinstance(content, dict):
            raise _no_file(path)
        return cls._parse(content, path)

    @classmethod
    def _parse(cls, content: Mapping[str, Any], path: Path) -> Self:
        names = ("grpc_address", "issuer", "app_id", "api_token")
        texts: dict[str, Any] = {name: content.get(name) for name in names}
        kind, insecure = content.get("kind", ""), content.get("insecure", False)
        resources = content.get("resources")
        if (
            not all(isinstance(text, str) for text in (kind, *texts.values()))
            or not isinstance(insecure, bool)
            or not (resources is None or _is_list_of_texts(resources))
        ):
            raise _no_file(path)
        pems: dict[str, Any] = {f"{name}_pem": _pem(content, name, path) for name in _PEM_MEMBERS}
        if (pems["client_certificate_pem"] is None) != (pems["client_key_pem"] is None):
            raise ConfigurationError(f"{path}: client_certificate and client_key go together")
        if insecure and pems["client_key_pem"] is not None:
            raise ConfigurationError(f"{path}: without TLS there is no client certificate")
        return cls(
            kind=kind,
            insecure=insecure,
            resources=None if resources is None else tuple(resources),
            **pems,
            **texts,
        )

    def write(self) -> str:
        """The file's text, complete in itself."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        known = {name: value for name, value in content.items() if value is not None}
        return json.dumps(known, indent=2) + "\n"

    def transport(self) -> grpc.ChannelCredentials:
        """How to reach the authority."""
        if self.insecure:
            return grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
        return grpc.ssl_channel_credentials(
            root_certificates=_encoded(self.ca_certificate_pem),
            private_key=_encoded(self.client_key_pem),
            certificate_chain=_encoded(self.client_certificate_pem),
        )


@dataclass(frozen=True, kw_only=True)
class VerifierFile(ConnectionFile):
    """What a service needs to know of its authority, as `rpz-auth apps create --verifier` writes it."""

    kind: str = "verifier"

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a verifier file.

        Raises:
            ConfigurationError: It is missing, not a verifier file, or an administrator's.
        """
        found = super().read(path)
        if found.kind != "verifier":
            raise ConfigurationError(
                f"{path} is a file of kind {found.kind!r}; a service needs one made by "
                "`rpz-auth apps create --verifier`, which can verify and nothing else"
            )
        return found


def _pem(content: Mapping[str, Any], name: str, path: Path) -> str | None:
    text, place = content.get(f"{name}_pem"), content.get(name)
    if not (text is None or isinstance(text, str)) or not (place is None or isinstance(place, str)):
        raise _no_file(path)
    if text is None and place is not None:
        try:
            text = (path.parent / place).read_text(encoding="ascii")
        except (OSError, ValueError):
            raise ConfigurationError(
                f"the {name} {path.parent / place} cannot be read here; put its text into "
                f"{path} as {name}_pem"
            ) from None
    if text is not None and "-----BEGIN " not in text:  # grpc would say so at the first call only
        raise ConfigurationError(f"{path}: {name} is not PEM")
    return text


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(member, str) for member in value)


def _encoded(pem: str | None) -> bytes | None:
    return pem.encode() if pem else None


def _no_file(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is no file for connections to an rpz-auth authority, such as bootstrap.json or what "
        "`rpz-auth apps create --verifier` writes"
    )
