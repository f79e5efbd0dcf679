"""`rpz-auth codes`: authorization codes, issued by hand."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import Annotated

import typer
from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth_server.cli import output
from rpz_auth_server.cli.connection import connect
from rpz_auth_server.cli.options import ClientIdOption, CredentialsOption, JsonOption

app = typer.Typer(
    help="Authorization codes, as a sign-in service issues them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_VERIFIER_BYTES = 32
"""43 characters (RFC 7636 §4.1)."""


@app.callback()
def _commands() -> None:
    """Keep the name `issue`: typer would drop it for a lone command."""


@app.command()
def issue(
    client_id: ClientIdOption,
    redirect_uri: Annotated[str, typer.Option(metavar="URI", help="One that is registered for the App.")],
    scope: Annotated[list[str], typer.Option(metavar="SCOPE", help="May be repeated.")],
    subject: Annotated[str, typer.Option(help="The user who consented.")],
    resource: Annotated[list[str] | None, typer.Option(metavar="URI", help="May be repeated.")] = None,
    code_challenge: Annotated[
        str, typer.Option(help="BASE64URL(SHA256(code_verifier)); without it a pair is made, and shown.")
    ] = "",
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Issue a code, which is good once and for a minute."""
    verifier = ""
    if not code_challenge:
        verifier = secrets.token_urlsafe(_VERIFIER_BYTES)
        digest = hashlib.sha256(verifier.encode("ascii")).digest()
        code_challenge = base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")
    with connect(credentials) as authority:
        answer = authority.call(
            authority.tokens.IssueCode,
            pb.IssueCodeRequest(
                client_id=client_id,
                redirect_uri=redirect_uri,
                scopes=scope,
                subject=subject,
                resources=resource or (),
                code_challenge=code_challenge,
                code_challenge_method="S256",
            ),
        )
    if as_json:
        output.print_json({**output.to_dict(answer), **({"code_verifier": verifier} if verifier else {})})
        return
    output.print_secret(f"Code, good once within {answer.expires_in} seconds", answer.code, once=False)
    if verifier:
        output.print_secret("Code verifier", verifier, once=False)
