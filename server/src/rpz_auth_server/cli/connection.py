"""The credentials file, with the connection to the authority that it describes."""

from __future__ import annotations

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
from rpz_auth.connection_file import ConnectionFile

from rpz_auth_server.cli.failed_call import explain
from rpz_auth_server.cli.options import DEFAULTS, VARIABLE

_TIMEOUT = 10.0
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a proxy would be shown where the authority is, and break loopback
    ("grpc.enable_retries", 0),  # a code must not be redeemed twice (RFC 6749 §4.1.2)
)
Request = TypeVar("Request")
Response = TypeVar("Response")


class Authority:
    """A connection to the authority, for the time of one command."""

    def __init__(self, credentials: ConnectionFile) -> None:
        """Prepare to connect; nothing is sent yet.

        Raises:
            typer.BadParameter: The token in the file cannot be sent.
        """
        self.credentials = credentials
        try:
            tls = credentials.transport()
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
    try:
        credentials = ConnectionFile.read(path or _find())
    except rpz_auth.ConfigurationError as error:
        raise _unusable(str(error)) from None
    return Authority(credentials)


def _find() -> Path:
    for path in DEFAULTS:
        if path.exists():
            return path
    raise _unusable(
        f"there is no {' or '.join(map(str, DEFAULTS))} here. Name the bootstrap.json in the authority's "
        f"data directory by --credentials or {VARIABLE}. `rpz-auth-server serve` makes it at its first "
        "start, `rpz-auth-server bootstrap` makes a new one"
    )


def _unusable(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--credentials")
