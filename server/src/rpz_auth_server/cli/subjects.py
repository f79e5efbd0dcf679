"""`rpz-auth subjects`: what concerns one user at all Apps."""

from __future__ import annotations

from typing import Annotated

import typer
from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth_server.cli import output
from rpz_auth_server.cli.connection import connect
from rpz_auth_server.cli.options import CredentialsOption, JsonOption

app = typer.Typer(help="Users.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _commands() -> None:
    """Keep the name `revoke`: typer would drop it for a lone command."""


@app.command()
def revoke(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="The user, as in access tokens (sub).")],
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Revoke all that a user has allowed any App."""
    with connect(credentials) as authority:
        answer = authority.call(authority.tokens.RevokeSubject, pb.RevokeSubjectRequest(subject=subject))
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line(f"Grants of {subject} revoked: {answer.revoked_grants}")
