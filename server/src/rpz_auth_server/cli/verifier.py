"""The identity of a service that verifies tokens, in the one file that the service needs."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import typer
from rpz.auth.v1 import app_service_pb2, token_service_pb2
from rpz_auth.connection_file import VerifierFile

from rpz_auth_server.cli import secret_file
from rpz_auth_server.cli.connection import Authority

SCOPES = ("rpz.introspect", "rpz.verify")


@dataclass(frozen=True, slots=True)
class ClientPair:
    """A client certificate, with its chain, and its private key."""

    certificate_pem: str
    key_pem: str = field(repr=False)

    @classmethod
    def read(cls, certificate: Path | None, key: Path | None) -> ClientPair | None:
        """Read the files that were named; None for none.

        Raises:
            typer.BadParameter: One is missing, or they do not belong together.
        """
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            raise _bad_pair("goes together with --client-key")
        try:
            pair = cls(certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii"))
            ssl.create_default_context().load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError):  # ssl's errors among them
            raise _bad_pair(
                f"{certificate} and {key} are not readable PEM files of a certificate and its key, without "
                "a password"
            ) from None
        return pair


def _bad_pair(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint="--client-certificate")


def _no_password() -> str:
    return ""  # openssl would ask for one on the terminal


def create_verifier(
    authority: Authority, wanted: app_service_pb2.App, path: Path, pair: ClientPair | None
) -> tuple[app_service_pb2.App, token_service_pb2.ApiToken]:
    """Register a service with an API token of its own, and write the file that `rpz_auth.connect` takes.

    Args:
        authority: The authority.
        wanted: Name, resources (the service's identifiers, RFC 8707), whitelist and owner.
        path: The file, which must not exist.
        pair: What the service shows to an authority that demands client certificates.

    Returns:
        The App, and the record of its API token.

    Raises:
        Failure: It was refused, or the file could not be written; nothing is left over then.
    """
    credentials = authority.credentials
    app = app_service_pb2.App(kind=app_service_pb2.APP_KIND_BACKEND, scopes=SCOPES)
    app.MergeFrom(wanted)
    app.resources.append(credentials.issuer)  # where a verifier calls is the authority itself
    app = authority.call(authority.apps.CreateApp, app_service_pb2.CreateAppRequest(app=app)).app

    def undo() -> object:
        return authority.call(authority.apps.DeleteApp, app_service_pb2.DeleteAppRequest(app_id=app.app_id))

    try:
        created = authority.call(
            authority.tokens.CreateApiToken,
            token_service_pb2.CreateApiTokenRequest(
                app_id=app.app_id, display_name="verifier", scopes=SCOPES, resources=app.resources
            ),
        )
    except BaseException:
        undo()
        raise
    file = VerifierFile(
        grpc_address=credentials.grpc_address,
        issuer=credentials.issuer,
        ca_certificate_pem=credentials.ca_certificate_pem,
        client_certificate_pem=None if pair is None else pair.certificate_pem,
        client_key_pem=None if pair is None else pair.key_pem,
        insecure=credentials.insecure,
        app_id=app.app_id,
        api_token=created.api_token,
        resources=tuple(sorted(set(app.resources) - {credentials.issuer})),
    )
    secret_file.write(path, file.write(), undo=undo, created=f"the App {app.app_id}")
    return app, created.record
