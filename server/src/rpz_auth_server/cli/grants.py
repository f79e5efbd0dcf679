"""`rpz-auth grants`: what users have allowed Apps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rpz.auth.v1 import token_service_pb2 as pb

from rpz_auth_server.cli import output
from rpz_auth_server.cli.connection import Authority, connect
from rpz_auth_server.cli.options import CredentialsOption, JsonOption

app = typer.Typer(help="What users have allowed Apps.", no_args_is_help=True, rich_markup_mode=None)

_PAGE = 1000


@app.command("list")
def list_grants(
    client_id: Annotated[
        str, typer.Option(metavar="APP_ID", help="Of this App; only an administrator leaves it out.")
    ] = "",
    subject: Annotated[str, typer.Option(help="Of this user, as in access tokens (sub).")] = "",
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """List the live grants of an App, of a user, or of a user to an App."""
    if not client_id and not subject:
        raise typer.BadParameter("name an App, a user, or both", param_hint="--client-id, --subject")
    with connect(credentials) as authority:
        found = list(_all_grants(authority, client_id, subject))
    if as_json:
        output.print_json({"grants": [output.to_dict(each) for each in found]})
        return
    output.print_table(
        ("GRANT ID", "APP ID", "EXPIRES (UTC)", "REFRESHED (UTC)", "SUBJECT", "ISSUED BY", "ALLOWS"),
        [
            (
                each.grant_id,
                each.client_id,
                output.format_time(each.expire_time),
                output.format_time(each.last_refresh_time if each.HasField("last_refresh_time") else None),
                each.subject,
                each.issued_by,
                [*each.scopes, *(f"at {resource}" for resource in each.resources)],
            )
            for each in found
        ],
        fixed=4,
    )


@app.command()
def revoke(
    grant_id: Annotated[str, typer.Argument(metavar="GRANT_ID", help="As `grants list` shows it.")],
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Revoke a grant with all its tokens, everywhere and at once."""
    with connect(credentials) as authority:
        answer = authority.call(authority.tokens.RevokeGrant, pb.RevokeGrantRequest(grant_id=grant_id))
    if as_json:
        output.print_json(output.to_dict(answer))
    else:
        output.print_line(f"{grant_id} is revoked")


def _all_grants(authority: Authority, client_id: str, subject: str) -> Iterator[pb.Grant]:
    token = ""
    while True:
        request = pb.ListGrantsRequest(
            client_id=client_id, subject=subject, page_size=_PAGE, page_token=token
        )
        page = authority.call(authority.tokens.ListGrants, request)
        yield from page.grants
        token = page.next_page_token
        if not token:
            return
