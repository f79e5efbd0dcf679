"""`rpz-auth refusals`: which calls were refused, and why."""

from __future__ import annotations

from typing import Annotated

import typer
from rpz.auth.v1 import app_service_pb2 as pb

from rpz_auth_server.cli import output
from rpz_auth_server.cli.connection import connect
from rpz_auth_server.cli.options import CredentialsOption, JsonOption

app = typer.Typer(help="Refused calls.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _commands() -> None:
    """Keep the name `list`: typer would drop it for a lone command."""


@app.command("list")
def list_(
    app_id: Annotated[
        str, typer.Option("--app", metavar="APP_ID", help="Only those of this App; owners must name one.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many lines.")] = 50,
    credentials: CredentialsOption = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Show how often calls were refused, by minute, App and reason."""
    request = pb.ListRefusalsRequest(app_id=app_id, page_size=limit)
    with connect(credentials) as authority:
        answer = authority.call(authority.apps.ListRefusals, request)
    if as_json:
        output.print_json(output.to_dict(answer))
        return
    output.print_table(
        ["MINUTE", "APP", "REASON", "CALLS"],
        [
            [output.format_time(item.minute), item.app_id or "(none)", item.reason, str(item.count)]
            for item in answer.refusals
        ],
        fixed=4,
    )
