"""The identity of a service that verifies tokens, in the one file that the service needs."""

from __future__ import annotations

import json
from pathlib import Path

from rpz.auth.v1 import app_service_pb2, token_service_pb2

from rpz_auth_server.cli import secret_file
from rpz_auth_server.cli.connection import Authority

SCOPES = ("rpz.introspect", "rpz.verify")


def create_verifier(
    authority: Authority, wanted: app_service_pb2.App, path: Path
) -> tuple[app_service_pb2.App, token_service_pb2.ApiToken]:
    """Register a service with an API token of its own, and write the file that `rpz_auth.connect` takes.

    Args:
        authority: The authority.
        wanted: Name, resources (the service's identifiers, RFC 8707), whitelist and owner.
        path: The file, which must not exist.

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
    content = {
        "kind": "verifier",
        "grpc_address": credentials.grpc_address,
        "issuer": credentials.issuer,
        "ca_certificate_pem": credentials.ca_certificate_pem,
        "insecure": credentials.insecure,
        "app_id": app.app_id,
        "api_token": created.api_token,
    }
    text = json.dumps(content, indent=2) + "\n"
    secret_file.write(path, text, undo=undo, created=f"the App {app.app_id}")
    return app, created.record
