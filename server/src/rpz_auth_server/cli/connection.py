"""The credentials file, with the connection to the authority that it describes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import grpc
import rpz_auth
import typer
from rpz.auth.v1 import (
    administration_service_pb2_grpc,
    app_service_pb2_grpc,
    token_service_pb2_grpc,
)

from rpz_auth_server.cli.failures import explain

VARIABLE = "RPZ_AUTH_CREDENTIALS"
DEFAULTS = (Path("rpz-auth-data/bootstrap.json"), Path("data/bootstrap.json"))
"""Where a file is looked for when none is named, in the working directory."""

_TIMEOUT = 10.0
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a proxy would be shown where the authority is, and break loopback
    ("grpc.enable_retries", 0),  # a code must not be redeemed twice (RFC 6749 §4.1.2)
)
Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where the authority is, whom to trust, and as which App to speak.

    Read from a bootstrap file, whose `ca_certificate` is a path, or from a file such as a verifier's, with
    the certificate itself in `ca_certificate_pem`; with neither, the system's authorities are trusted.
    """

    grpc_address: str
    issuer: str
    ca_certificate_pem: str | None
    insecure: bool
    app_id: str
    api_token: str = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Credentials:
        """Read a file.

        Raises:
            typer.BadParameter: It is missing or cannot be used.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            texts = {name: content[name] for name in ("grpc_address", "issuer", "app_id", "api_token")}
            pem, ca_certificate = content.get("ca_certificate_pem"), content.get("ca_certificate")
            insecure = content.get("insecure", False)
        except OSError as error:
            raise _unusable(f"{path}: {error.strerror}") from None
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ):  # none of which may quote the file
            raise _unusable(f"{path} is no credentials file such as bootstrap.json") from None
        strings = (
            *texts.values(),
            "" if pem is None else pem,
            "" if ca_certificate is None else ca_certificate,
        )
        if not all(isinstance(text, str) for text in strings) or not isinstance(insecure, bool):
            raise _unusable(f"{path} is no credentials file such as bootstrap.json")
        if pem is None and ca_certificate is not None:
            pem = _read_pem(path.parent / ca_certificate)
        return cls(**texts, ca_certificate_pem=pem, insecure=insecure)

    def transport(self) -> grpc.ChannelCredentials:
        """How to reach the authority; without TLS grpc takes nothing but a loopback connection."""
        if self.insecure:
            return grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
        return grpc.ssl_channel_credentials(
            self.ca_certificate_pem.encode() if self.ca_certificate_pem else None
        )


class Authority:
    """A connection to the authority, for the time of one command."""

    def __init__(self, credentials: Credentials) -> None:
        """Prepare to connect; nothing is sent yet.

        Raises:
            typer.BadParameter: The token in the file cannot be sent.
        """
        self.credentials = credentials
        tls = credentials.transport()
        try:
            own = rpz_auth.secure_channel(
                credentials.grpc_address,
                rpz_auth.ApiToken(credentials.app_id, credentials.api_token),
                tls=tls,
                options=_CHANNEL_OPTIONS,
            )
        except rpz_auth.ConfigurationError as error:
            raise _unusable(str(error)) from None
        client = grpc.secure_channel(credentials.grpc_address, tls, _CHANNEL_OPTIONS)
        self._channels = (own, client)
        self.apps = app_service_pb2_grpc.AppServiceStub(own)
        """As the App of the credentials file."""
        self.tokens = token_service_pb2_grpc.TokenServiceStub(own)
        """As the App of the credentials file."""
        self.administration = administration_service_pb2_grpc.AdministrationServiceStub(own)
        """As the App of the credentials file."""
        self.as_client = token_service_pb2_grpc.TokenServiceStub(client)
        """As whichever OAuth 2 client the message names; the file's token is not sent."""

    def call(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Call a method of one of the stubs.

        Raises:
            Failure: It was refused, or the authority could not be reached.
        """
        try:
            return method(request, timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise explain(error, address=self.credentials.grpc_address, timeout=_TIMEOUT) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for channel in self._channels:
            channel.close()


def connect(path: Path | None) -> Authority:
    """Connect by the credentials file that was named, or by the one that is found.

    Raises:
        typer.BadParameter: There is none, or it cannot be used.
    """
    return Authority(Credentials.read(path or _find()))


def _find() -> Path:
    for path in DEFAULTS:
        if path.exists():
            return path
    raise _unusable(
        f"there is no {' or '.join(map(str, DEFAULTS))} here. Name the bootstrap.json in the authority's "
        f"data directory by --credentials or {VARIABLE}. `rpz-auth-server serve` makes it at its first "
        "start, `rpz-auth-server bootstrap` makes a new one"
    )


def _read_pem(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise _unusable(
            f"the ca_certificate {path} cannot be read here; put its text into the file as ca_certificate_pem"
        ) from None


def _unusable(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--credentials")
